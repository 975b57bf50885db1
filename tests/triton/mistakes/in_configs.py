"""Mistakes in fields that every config.pbtxt has."""

from tests.triton.mistakes.planting import Mistake, add_field, in_config, rename, write

CONFIG_MISTAKES = (
    Mistake(
        "an unknown field",
        "words",
        (add_field("scorer", "max_batchsize: 8"),),
        'has no field named "max_batchsize"',
    ),
    Mistake(
        "an unknown data type",
        "words",
        (in_config("scorer", "TYPE_FP32", "TYPE_FLOAT"),),
        "has no value named TYPE_FLOAT",
    ),
    Mistake(
        "a placeholder left unfilled",
        "words",
        (in_config("scorer", "max_batch_size: 8", "max_batch_size: ${max_batch_size}"),),
        "scorer/config.pbtxt is no model config",
    ),
    Mistake(
        "a field given twice",
        "words",
        (add_field("scorer", "max_batch_size: 4"),),
        "is no model config",
    ),
    Mistake(
        "a bracket left open",
        "words",
        (add_field("scorer", "parameters {"),),
        "is no model config",
    ),
    Mistake(
        "a config that is not UTF-8",
        "words",
        (write("scorer/config.pbtxt", b'name: "scorer" # \xe6\x97'),),
        "is no model config",
    ),
    Mistake(
        "a name that is not the folder's",
        "words",
        (in_config("scorer", 'name: "scorer"', 'name: "score"'),),
        'name is "score"; the folder\'s name "scorer" is allowed',
    ),
    Mistake(
        "no backend, and a file that does not tell it",
        "words",
        (
            in_config("scorer", 'backend: "python"', 'default_model_filename: "scorer.py"'),
            rename("scorer/1/model.py", "scorer/1/scorer.py"),
        ),
        "scorer/config.pbtxt: backend is not set",
    ),
    Mistake(
        "a backend misspelt",
        "words",
        (in_config("scorer", 'backend: "python"', 'backend: "pyhton"'),),
        'backend is "pyhton"; onnxruntime, tensorrt, python',
    ),
    Mistake(
        "a platform that is a backend's name",
        "encoder",
        (in_config("engine", 'backend: "onnxruntime"', 'platform: "onnxruntime"'),),
        'engine/config.pbtxt: platform is "onnxruntime"; ensemble, onnxruntime_onnx',
    ),
    Mistake(
        "a platform that contradicts the backend",
        "words",
        (add_field("scorer", 'platform: "onnxruntime_onnx"'),),
        'platform is "onnxruntime_onnx"; it contradicts backend "python"',
    ),
    Mistake(
        "a negative max_batch_size",
        "words",
        (in_config("scorer", "max_batch_size: 8", "max_batch_size: -1"),),
        "max_batch_size is -1; 0 or more is allowed",
    ),
    Mistake(
        "an output without dims",
        "words",
        (in_config("scorer", "dims: [ 3 ] label_filename", "label_filename"),),
        'output[0] "SCORES".dims is empty',
    ),
    Mistake(
        "a dim of 0",
        "words",
        (in_config("scorer", "dims: [ 3 ]", "dims: [ 0 ]"),),
        'output[0] "SCORES".dims is [0]; 1 or more, or -1',
    ),
    Mistake(
        "a dim of -2",
        "words",
        (in_config("reader", "TYPE_STRING dims: [ 1 ] }", "TYPE_STRING dims: [ -2 ] }"),),
        'input[0] "TEXT".dims is [-2]; 1 or more, or -1',
    ),
    Mistake(
        "an input without a name",
        "words",
        (in_config("reader", 'name: "TEXT" data_type', "data_type"),),
        "reader/config.pbtxt: input[0].name is not set",
    ),
    Mistake(
        "an input without a data type",
        "words",
        (in_config("reader", '[ { name: "TEXT" data_type: TYPE_STRING', '[ { name: "TEXT"'),),
        'input[0] "TEXT".data_type is not set',
    ),
    Mistake(
        "an input declared twice",
        "words",
        (add_field("scorer", 'input { name: "IDS" data_type: TYPE_INT64 dims: [ 4 ] }'),),
        'input[0] "IDS" is declared twice',
    ),
    Mistake(
        "an output declared twice",
        "words",
        (add_field("scorer", 'output { name: "SCORES" data_type: TYPE_FP32 dims: [ 3 ] }'),),
        'output[0] "SCORES" is declared twice',
    ),
    Mistake(
        "no outputs",
        "story",
        (
            in_config(
                "story",
                'output [ { name: "text_output" data_type: TYPE_STRING dims: [ 1 ] } ]\n',
                "",
            ),
        ),
        "story/config.pbtxt: output is empty",
    ),
    Mistake(
        "a reshape to another number of values",
        "words",
        (
            in_config(
                "scorer",
                "dims: [ 3 ] label_filename",
                "dims: [ 3 ] reshape { shape: [ 2, 2 ] } label_filename",
            ),
        ),
        'output[0] "SCORES".reshape is [2, 2]; as many elements as dims [3]',
    ),
    Mistake(
        "an image format of a tensor that is none",
        "words",
        (
            add_field(
                "scorer",
                'input { name: "EXTRA" data_type: TYPE_FP32 dims: [ 4 ] format: FORMAT_NCHW '
                "optional: true }",
            ),
        ),
        'input[2] "EXTRA".format is FORMAT_NCHW with 1 dims',
    ),
    Mistake(
        "a shape tensor of a python model",
        "words",
        (in_config("scorer", "dims: [ 3 ]", "dims: [ 3 ] is_shape_tensor: true"),),
        "is_shape_tensor is true; backend python has none",
    ),
)
