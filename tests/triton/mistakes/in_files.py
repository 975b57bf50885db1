"""Mistakes in the files that configs name or imply."""

from tests.triton.mistakes.planting import (
    Mistake,
    add_field,
    in_config,
    remove,
    rename,
    replace,
    write,
)

POLICY = "version_policy { latest { num_versions: 1 } }"

FILE_MISTAKES = (
    Mistake(
        "no config.pbtxt",
        "words",
        (remove("scorer/config.pbtxt"),),
        "scorer/config.pbtxt is missing",
    ),
    Mistake(
        "a folder beside the models that is none",
        "words",
        (write("checkpoints/weights.bin", b"0"),),
        "checkpoints/config.pbtxt is missing; every folder of the repository is taken for a model",
    ),
    Mistake(
        "a hidden folder beside the models",
        "words",
        (write(".git/HEAD", "ref: refs/heads/main"),),
        ".git/config.pbtxt is missing; every folder of the repository is taken for a model",
    ),
    Mistake(
        "no version folder",
        "words",
        (rename("scorer/1", "scorer/latest"),),
        "scorer/ holds no version folder",
    ),
    Mistake(
        "version folder v1",
        "words",
        (rename("scorer/1", "scorer/v1"),),
        "scorer/ holds no version folder",
    ),
    Mistake(
        "version folder 01",
        "words",
        (rename("scorer/1", "scorer/01"),),
        "scorer/01/ is no usual version",
    ),
    Mistake(
        "version folder 0",
        "words",
        (rename("scorer/1", "scorer/0"),),
        "scorer/0/ is no usual version",
    ),
    Mistake(
        "a version policy for a version that is not there",
        "words",
        (in_config("scorer", POLICY, "version_policy { specific { versions: [ 2 ] } }"),),
        "version_policy.specific.versions names 2; the folders 1 are allowed",
    ),
    Mistake(
        "a version policy for no version",
        "words",
        (in_config("scorer", POLICY, "version_policy { specific { } }"),),
        "version_policy.specific.versions is empty",
    ),
    Mistake(
        "a version policy for the latest 0",
        "words",
        (in_config("scorer", POLICY, "version_policy { latest { num_versions: 0 } }"),),
        "version_policy.latest.num_versions is not set, or 0",
    ),
    Mistake(
        "an ensemble whose version folder was dropped",
        "words",
        (remove("words/1"),),
        "words/ holds no version folder",
    ),
    Mistake(
        "an ensemble whose version folder is empty",
        "words",
        (remove("words/1/.keep"),),
        "words/1/ is empty; git and object stores drop empty folders",
    ),
    Mistake(
        "no model.py",
        "words",
        (remove("scorer/1/model.py"),),
        "scorer/1/model.py is missing; backend python loads it from there",
    ),
    Mistake(
        "no model.onnx",
        "encoder",
        (remove("engine/1/model.onnx"),),
        "engine/1/model.onnx is missing; backend onnxruntime",
    ),
    Mistake(
        "no model.plan",
        "engine",
        (remove("engine/1/model.plan"),),
        "engine/1/model.plan is missing; backend tensorrt",
    ),
    Mistake(
        "no model.json",
        "llm",
        (remove("llm/1/model.json"),),
        "llm/1/model.json is missing; backend vllm",
    ),
    Mistake(
        "a model's file of another name",
        "words",
        (add_field("scorer", 'default_model_filename: "scorer.py"'),),
        "scorer/1/scorer.py is missing (default_model_filename)",
    ),
    Mistake(
        "an engine for a capability that is not there",
        "engine",
        (add_field("engine", 'cc_model_filenames { key: "8.9" value: "ada.plan" }'),),
        'cc_model_filenames names "ada.plan" for capability 8.9',
    ),
    Mistake(
        "no label file",
        "words",
        (remove("scorer/labels.txt"),),
        'output "SCORES".label_filename is "labels.txt"; a file in the model\'s folder',
    ),
    Mistake(
        "too few labels",
        "words",
        (write("scorer/labels.txt", "sum\nlargest\n"),),
        '"labels.txt" of 2 lines; one line for each of the 3 values',
    ),
    Mistake(
        "no warm-up data",
        "words",
        (remove("reader/warmup/text"),),
        'input_data_file is "text"; a file in warmup/ is allowed',
    ),
    Mistake(
        "warm-up data of another length",
        "words",
        (
            add_field(
                "scorer",
                'model_warmup [ { name: "codes" batch_size: 1 '
                'inputs { key: "IDS" value { data_type: TYPE_INT64 dims: [ 4 ] '
                'input_data_file: "ids" } } '
                'inputs { key: "MASK" value { data_type: TYPE_INT64 dims: [ 4 ] '
                "zero_data: true } } } ]",
            ),
            write("scorer/warmup/ids", bytes(16)),
        ),
        'input_data_file is "ids" of 16 bytes; 32 bytes, one row of dims [4]',
    ),
    Mistake(
        "warm-up of an input that is not there",
        "words",
        (replace("reader/config.pbtxt", 'key: "TEXT"', 'key: "TEXTS"'),),
        'model_warmup "text".inputs names "TEXTS"',
    ),
    Mistake(
        "warm-up without one of the inputs",
        "encoder",
        (
            replace(
                "engine/config.pbtxt",
                '    inputs { key: "attention_mask" value { data_type: TYPE_INT64 dims: [ 4 ] '
                "zero_data: true } }\n",
                "",
            ),
        ),
        'model_warmup "bucket 4".inputs lacks "attention_mask"',
    ),
    Mistake(
        "warm-up of another data type",
        "encoder",
        (
            replace(
                "engine/config.pbtxt",
                'key: "input_ids" value { data_type: TYPE_INT64',
                'key: "input_ids" value { data_type: TYPE_INT32',
            ),
        ),
        "data_type is TYPE_INT32; the input's TYPE_INT64 is allowed",
    ),
    Mistake(
        "warm-up of an open size",
        "encoder",
        (
            replace(
                "engine/config.pbtxt",
                'key: "input_ids" value { data_type: TYPE_INT64 dims: [ 4 ]',
                'key: "input_ids" value { data_type: TYPE_INT64 dims: [ -1 ]',
            ),
        ),
        'model_warmup "bucket 4".inputs "input_ids".dims is [-1]',
    ),
    Mistake(
        "warm-up with more rows than a batch has",
        "encoder",
        (replace("engine/config.pbtxt", "batch_size: 8\n    inputs", "batch_size: 9\n    inputs"),),
        'model_warmup "bucket 4".batch_size is 9; 1 to max_batch_size 8',
    ),
    Mistake(
        "warm-up without data",
        "words",
        (replace("reader/config.pbtxt", ' input_data_file: "text"', ""),),
        'model_warmup "text".inputs "TEXT" has no data',
    ),
    Mistake(
        "warm-up from a file without a name",
        "words",
        (replace("reader/config.pbtxt", 'input_data_file: "text"', 'input_data_file: ""'),),
        'model_warmup "text".inputs "TEXT" has no data',
    ),
    Mistake(
        "warm-up texts without their lengths",
        "words",
        (write("reader/warmup/text", "日本"),),
        'input_data_file is "text" of another form; 1 texts are allowed',
    ),
    Mistake(
        "an environment that is not there",
        "words",
        (
            add_field(
                "scorer",
                'parameters { key: "EXECUTION_ENV_PATH" value { string_value: '
                '"$$TRITON_MODEL_DIRECTORY/env.tar.gz" } }',
            ),
        ),
        'EXECUTION_ENV_PATH is "$$TRITON_MODEL_DIRECTORY/env.tar.gz"; a packed environment',
    ),
    Mistake(
        "an environment by a relative path",
        "words",
        (
            add_field(
                "scorer",
                'parameters { key: "EXECUTION_ENV_PATH" value { string_value: "env.tar.gz" } }',
            ),
        ),
        'EXECUTION_ENV_PATH is "env.tar.gz"; an absolute path',
    ),
)
