"""Mistakes in how ensembles connect their steps."""

from tests.triton.mistakes.planting import Mistake, add_field, in_config, remove, replace, write

STEP_IDS = 'output_map { key: "IDS" value: "ids" }'
SCORER_IDS = 'input_map { key: "IDS" value: "ids" }'
SCORES = 'output [ { name: "SCORES" data_type: TYPE_FP32 dims: [ 3 ] } ]'
BATCHING = "dynamic_batching { preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 1000 }"
OUTER = """name: "outer"
platform: "ensemble"
max_batch_size: 8
input [ { name: "TEXT" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "SCORES" data_type: TYPE_FP32 dims: [ 3 ] } ]
ensemble_scheduling {
  step [
    {
      model_name: "words"
      model_version: -1
      input_map { key: "TEXT" value: "TEXT" }
      output_map { key: "SCORES" value: "SCORES" }
    }
  ]
}
"""

STEPLESS = OUTER.split("ensemble_scheduling", maxsplit=1)[0].replace('"outer"', '"words"')

ENSEMBLE_MISTAKES = (
    Mistake(
        "a step of a model that is not there",
        "words",
        (in_config("words", 'model_name: "scorer"', 'model_name: "score"'),),
        'step[1] (score).model_name is "score"; the repository\'s models reader, scorer, words',
    ),
    Mistake(
        "a step whose model was removed",
        "words",
        (remove("scorer"),),
        'step[1] (scorer).model_name is "scorer"',
    ),
    Mistake(
        "a step of a version that is not there",
        "words",
        (
            in_config(
                "words",
                'model_name: "scorer"\n      model_version: -1',
                'model_name: "scorer"\n      model_version: 3',
            ),
        ),
        "step[1] (scorer).model_version is 3; -1, or a served version of scorer (1)",
    ),
    Mistake(
        "a step without a version",
        "words",
        (
            in_config(
                "words",
                'model_name: "scorer"\n      model_version: -1',
                'model_name: "scorer"',
            ),
        ),
        "step[1] (scorer).model_version is not set, or 0; -1, or a served version of scorer (1)",
    ),
    Mistake(
        "an ensemble without steps",
        "words",
        (write("words/config.pbtxt", STEPLESS),),
        "words/config.pbtxt: ensemble_scheduling is not set",
    ),
    Mistake(
        "steps of a model that is no ensemble",
        "words",
        (in_config("words", 'platform: "ensemble"', 'backend: "python"'),),
        "words/config.pbtxt: ensemble_scheduling is set; only platform",
    ),
    Mistake(
        "a map of an input that the step does not have",
        "words",
        (in_config("words", SCORER_IDS, 'input_map { key: "ids" value: "ids" }'),),
        'step[1] (scorer).input_map maps "ids"; inputs of scorer are allowed: IDS, MASK',
    ),
    Mistake(
        "an input of a step that is not mapped",
        "words",
        (in_config("words", f"      {SCORER_IDS}\n", ""),),
        'step[1] (scorer).input_map lacks "IDS"',
    ),
    Mistake(
        "a map of an output that the step does not have",
        "words",
        (in_config("words", STEP_IDS, 'output_map { key: "CODES" value: "ids" }'),),
        'step[0] (reader).output_map maps "CODES"; outputs of reader are allowed: IDS, MASK',
    ),
    Mistake(
        "a tensor that nothing makes",
        "words",
        (in_config("words", SCORER_IDS, 'input_map { key: "IDS" value: "codes" }'),),
        'ensemble_scheduling needs "codes", which nothing makes',
    ),
    Mistake(
        "a tensor that two outputs make",
        "words",
        (
            in_config(
                "words", 'key: "MASK" value: "mask" }\n    }', 'key: "MASK" value: "ids" }\n    }'
            ),
        ),
        'ensemble_scheduling makes "ids" twice',
    ),
    Mistake(
        "a step's output that overwrites an input",
        "words",
        (in_config("words", STEP_IDS, 'output_map { key: "IDS" value: "TEXT" }'),),
        'ensemble_scheduling makes "TEXT" twice',
    ),
    Mistake(
        "an empty tensor name in a map",
        "words",
        (in_config("words", SCORER_IDS, 'input_map { key: "IDS" value: "" }'),),
        'step[1] (scorer).input_map maps "IDS" to ""',
    ),
    Mistake(
        "an output of the ensemble that no step makes",
        "words",
        (in_config("words", 'output [ { name: "SCORES"', 'output [ { name: "SCORE"'),),
        'output "SCORE" is made by no step',
    ),
    Mistake(
        "an input of the ensemble that no step uses",
        "words",
        (add_field("words", 'input { name: "LANGUAGE" data_type: TYPE_STRING dims: [ 1 ] }'),),
        'input "LANGUAGE" is used by no step',
    ),
    Mistake(
        "an optional input of an ensemble",
        "words",
        (
            in_config(
                "words", "TYPE_STRING dims: [ 1 ] }", "TYPE_STRING dims: [ 1 ] optional: true }"
            ),
        ),
        'words/config.pbtxt: input[0] "TEXT".optional is true',
    ),
    Mistake(
        "a data type that the step does not have",
        "words",
        (in_config("words", SCORES, SCORES.replace("FP32", "FP16")),),
        'tensor "SCORES" is TYPE_FP32 in scorer\'s output "SCORES" and TYPE_FP16 in words\'s',
    ),
    Mistake(
        "a data type that the next step does not have",
        "words",
        (
            in_config(
                "scorer",
                '{ name: "IDS" data_type: TYPE_INT64',
                '{ name: "IDS" data_type: TYPE_INT32',
            ),
        ),
        'tensor "ids" is TYPE_INT32 in scorer\'s input "IDS" and TYPE_INT64 in reader\'s',
    ),
    Mistake(
        "a shape that the step does not have",
        "words",
        (in_config("words", SCORES, SCORES.replace("[ 3 ]", "[ 4 ]")),),
        'tensor "SCORES" is [-1, 3] in scorer\'s output "SCORES" and [-1, 4] in words\'s',
    ),
    Mistake(
        "a rank that the next step does not have",
        "words",
        (
            in_config(
                "scorer",
                '{ name: "IDS" data_type: TYPE_INT64 dims: [ 4 ] }',
                '{ name: "IDS" data_type: TYPE_INT64 dims: [ 4, 1 ] }',
            ),
        ),
        'tensor "ids" is [-1, 4, 1] in scorer\'s input "IDS" and [-1, 4] in reader\'s',
    ),
    Mistake(
        "a larger batch than a step takes",
        "words",
        (in_config("words", "max_batch_size: 8", "max_batch_size: 16"),),
        "max_batch_size is 16; its step reader has max_batch_size 8",
    ),
    Mistake(
        "a batch over a step without a batch axis",
        "words",
        (
            in_config("reader", "max_batch_size: 8", "max_batch_size: 0"),
            in_config("reader", "    batch_size: 1\n", ""),
        ),
        'tensor "TEXT" is [1] in reader\'s input "TEXT" and [-1, 1] in words\'s input "TEXT"',
    ),
    Mistake(
        "a step's output that nothing uses",
        "encoder",
        (
            replace(
                "encoder/config.pbtxt",
                ' },\n  { name: "SCORE" data_type: TYPE_FP32 dims: [ 1 ] }',
                " }",
            ),
        ),
        'ensemble_scheduling makes "SCORE", which nothing uses',
    ),
    Mistake(
        "half a batch axis over steps that have one",
        "words",
        (
            in_config("words", "max_batch_size: 8", "max_batch_size: 0"),
            in_config("words", "dims: [ 1 ]", "dims: [ -1, -1, 1 ]"),
        ),
        'tensor "TEXT" is [-1, 1] in reader\'s input "TEXT" and [-1, -1, 1] in words\'s',
    ),
    Mistake(
        "two ensembles that hold each other",
        "words",
        (
            write("outer/config.pbtxt", OUTER),
            write("outer/1/.keep", ""),
            in_config("words", 'model_name: "reader"', 'model_name: "outer"'),
        ),
        "ensemble_scheduling leads back to the ensemble itself",
    ),
    Mistake(
        "steps that wait for each other",
        "words",
        (
            in_config(
                "words",
                'input_map { key: "TEXT" value: "TEXT" }',
                'input_map { key: "TEXT" value: "SCORES" }',
            ),
        ),
        "ensemble_scheduling has steps that wait for each other (reader, scorer)",
    ),
    Mistake(
        "100 MB from step to step",
        "words",
        (
            replace("reader/1/codes.py", "WIDTH = 4", "WIDTH = 1500000"),
            replace("reader/1/codes.py", "list(text[:WIDTH])", "list(text[:4])"),
            *(
                in_config(
                    model,
                    f'"{name}" data_type: TYPE_INT64 dims: [ 4 ]',
                    f'"{name}" data_type: TYPE_INT64 dims: [ 1500000 ]',
                )
                for model in ("reader", "scorer")
                for name in ("IDS", "MASK")
            ),
        ),
        'step[0] (reader).output_map passes "IDS" of 96.0 MB at max_batch_size',
    ),
)
