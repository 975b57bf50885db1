"""Mistakes in a repository of shape generate."""

from tests.triton.mistakes.planting import (
    Mistake,
    describe,
    drop_json,
    in_config,
    remove,
    replace,
    set_json,
    write,
)

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
    Mistake(
        "generation.json without the cache",
        "counter",
        (drop_json(SETTINGS, "cache"),),
        "counter/1/generation.json: cache is missing; the model's code reads it: make the",
    ),
    Mistake(
        "limits in a list",
        "counter",
        (set_json(SETTINGS, limits=[4, 8]),),
        "generation.json: limits is [4, 8]; an object is allowed",
    ),
    Mistake(
        "a context in a text",
        "counter",
        (set_json(SETTINGS, max_context="32"),),
        'generation.json: max_context is "32"; a valid integer is allowed',
    ),
    Mistake(
        "a context of null",
        "counter",
        (set_json(SETTINGS, max_context=None),),
        "generation.json: max_context is null; a valid integer is allowed",
    ),
    Mistake(
        "a setting that the code does not know",
        "counter",
        (set_json(SETTINGS, limits__max_prefill_row=2),),
        "generation.json: limits.max_prefill_row is not known",
    ),
    Mistake(
        "generation.json without the tokens that end an answer",
        "counter",
        (drop_json(SETTINGS, "eos_token_ids"),),
        "generation.json: eos_token_ids is missing",
    ),
    Mistake(
        "an answer's end that is no token of the model",
        "counter",
        (set_json(SETTINGS, eos_token_ids=[8]),),
        "generation.json: eos_token_ids holds 8; tokens below vocab_size 8 are allowed",
    ),
    Mistake(
        "another vocabulary than the model's",
        "counter",
        (set_json(SETTINGS, vocab_size=16),),
        "generation.json: vocab_size is 16; triton.json's model has 8",
    ),
    Mistake(
        "a vocabulary smaller than the tokenizer's",
        "counter",
        (set_json(SETTINGS, vocab_size=4),),
        "generation.json: vocab_size is 4; tokenizer.json has 8 tokens",
    ),
    Mistake(
        "prompts longer than the context",
        "counter",
        (set_json(SETTINGS, max_prompt_tokens=64),),
        "generation.json: max_prompt_tokens is 64; up to 31 run at once",
    ),
    Mistake(
        "no request may wait",
        "counter",
        (set_json(SETTINGS, limits__max_waiting=0),),
        "generation.json: limits.max_waiting is 0; greater than 0 is allowed",
    ),
    Mistake(
        "a head size that the model does not have",
        "counter",
        (replace(SETTINGS, '"head_size": 4\n  }\n', '"head_size": 8\n  }\n'),),
        "generation.json: cache is [{",
    ),
    Mistake(
        "a session option that the model does not ask for",
        "counter",
        (set_json(SETTINGS, session_options={"session.use_env_allocators": "1"}),),
        'generation.json: session_options is {"session.use_env_allocators": "1"}; triton.json\'s',
    ),
    Mistake(
        "a tokenizer that does not load",
        "counter",
        (set_json("counter/1/tokenizer.json", model={"type": "None"}),),
        "counter/1/tokenizer.json is no tokenizer (",
    ),
    Mistake(
        "a chat template with a tag left open",
        "counter",
        (set_json(SETTINGS, chat_template="{% for message in messages %}"),),
        "generation.json: chat_template can't be compiled (",
    ),
    Mistake(
        "triton.json without the generating model",
        "counter",
        (describe(models=[]),),
        "triton.json: models names 0 of role generate; shape generate has one",
    ),
    Mistake(
        "triton.json without the exported model",
        "counter",
        (describe(model=None),),
        "triton.json: model is null; shape generate describes the exported model",
    ),
    Mistake(
        "a generating repository for another task",
        "counter",
        (describe(task="embed"),),
        "triton.json: task is embed; shape generate does generate",
    ),
    Mistake(
        "profiles that the engine does not have",
        "counter_engine",
        (
            replace(
                SETTINGS,
                '"past_sequence": [\n     1,\n     23',
                '"past_sequence": [\n     1,\n     31',
            ),
        ),
        'generation.json: profiles is [{"name": "prefill"',
    ),
    Mistake(
        "a context that the engine's profiles do not hold",
        "counter_engine",
        (set_json(SETTINGS, max_context=32),),
        "max_context is 32; the engine's profiles take 24 tokens",
    ),
    Mistake(
        "more prompts at once than the engine takes",
        "counter_engine",
        (set_json(SETTINGS, limits__max_prefill_rows=None),),
        "limits.max_prefill_rows is null; the engine's profiles take 2 prompts at once",
    ),
    Mistake(
        "more slots than the engine decodes",
        "counter_engine",
        (describe(max_batch_size=8), set_json(SETTINGS, limits__max_running=8)),
        "triton.json: engine describes none that generates text so (max_batch_size is 8",
    ),
)
