"""Mistakes in a repository of shape generate."""

from tests.triton.mistakes.planting import Mistake, in_config, remove, replace, set_json, write

SETTINGS, CODE = "counter/1/generation.json", "counter/1/model.py"
FIRST_OUTPUT = 'output {\n  name: "text_output"'

GENERATE_MISTAKES = (
    Mistake("no generation.json", "counter", (remove(SETTINGS),), "1/generation.json is missing"),
    Mistake(
        "generation.json that is no JSON",
        "counter",
        (write(SETTINGS, "{'decoder': 'onnxruntime'}"),),
        "counter/1/generation.json is no JSON",
    ),
    Mistake(
        "no tokenizer.json",
        "counter",
        (remove("counter/1/tokenizer.json"),),
        "counter/1/tokenizer.json is missing",
    ),
    Mistake(
        "no decoder's graph",
        "counter",
        (remove("counter/1/model.onnx"),),
        'generation.json: model_file is "model.onnx"; a file of 1/ is allowed',
    ),
    Mistake(
        "a cache that the graph does not have",
        "counter",
        (replace(SETTINGS, '"past_key_values.0.key"', '"past_key_values.1.key"'),),
        'generation.json: cache names "past_key_values.1.key"; 1/model.onnx has no such tensor',
    ),
    Mistake(
        "another runner than the description's",
        "counter",
        (set_json(SETTINGS, decoder="tensorrt"),),
        'generation.json: decoder is "tensorrt"; triton.json describes what onnxruntime runs',
    ),
    Mistake(
        "more slots than were planned",
        "counter",
        (set_json(SETTINGS, limits__max_running=64),),
        "limits.max_running is 64; triton.json says 4",
    ),
    Mistake(
        "a context longer than the model's positions",
        "counter",
        (set_json(SETTINGS, max_context=4096),),
        "max_context is 4096; the model has 32 positions",
    ),
    Mistake(
        "a module of the runtime left out",
        "counter",
        (remove("counter/1/sampling.py"),),
        "from .sampling import … finds no such file",
    ),
    Mistake(
        "an output that the runtime does not write",
        "counter",
        (in_config("counter", FIRST_OUTPUT, 'output {\n  name: "answer"'),),
        'output "answer" is written nowhere in 1/model.py',
    ),
    Mistake(
        "a generating model with a batch size",
        "counter",
        (in_config("counter", 'name: "counter"\n', 'name: "counter"\nmax_batch_size: 4\n'),),
        "max_batch_size is 4; the model batches by itself",
    ),
    Mistake(
        "messages that every request must have",
        "counter",
        (
            in_config(
                "counter",
                'name: "messages"\n  data_type: TYPE_STRING\n  dims: 1\n  optional: true',
                'name: "messages"\n  data_type: TYPE_STRING\n  dims: 1',
            ),
        ),
        'input "messages".optional is false; a request gives text_input or messages',
    ),
    Mistake(
        "a generating model that is not decoupled",
        "counter",
        (in_config("counter", "decoupled: true", "decoupled: false"),),
        "counter/config.pbtxt: model_transaction_policy.decoupled is false; streamed answers",
    ),
)
