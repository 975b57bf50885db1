"""Mistakes against triton.json, requirements.txt and the server's release."""

from tests.triton.mistakes.planting import (
    Mistake,
    add_field,
    describe,
    in_config,
    remove,
    replace,
    write,
)

DELAY = "dynamic_batching { max_queue_delay_microseconds: 100000 }"

DESCRIPTION_MISTAKES = (
    Mistake(
        "a release that does not exist",
        "encoder",
        (describe(triton_release="24.13"),),
        "triton.json: triton_release is refused (unknown release '24.13'",
    ),
    Mistake(
        "numpy 2 for a release that breaks with it",
        "encoder",
        (write("requirements.txt", "numpy==2.3.5\n"),),
        'requirements.txt: numpy is "numpy==2.3.5"; the python backend of 24.10 breaks with',
    ),
    Mistake(
        "numpy without a version for a release that breaks with the newest",
        "encoder",
        (write("requirements.txt", "numpy\n"),),
        'requirements.txt: numpy is "numpy"; the python backend of 24.10 breaks with numpy 2',
    ),
    Mistake(
        "a delay on the tokenizer",
        "encoder",
        (add_field("tokenizer", DELAY),),
        "tokenizer/config.pbtxt: dynamic_batching.max_queue_delay_microseconds is 100000",
    ),
    Mistake(
        "a delay beyond the budget that was planned",
        "encoder",
        (in_config("engine", "microseconds: 2000", "microseconds: 100000"),),
        "max_queue_delay_microseconds is 100000; triton.json says 2000",
    ),
    Mistake(
        "buckets out of order",
        "encoder",
        (describe(buckets=[8, 4]),),
        "triton.json: buckets is [8, 4]; ascending lengths",
    ),
    Mistake(
        "a bucket longer than the model's positions",
        "encoder",
        (describe(buckets=[4, 64]), replace("tokenizer/1/settings.json", "[4, 8]", "[4, 64]")),
        "triton.json: buckets holds 64; the model has 32 positions",
    ),
    Mistake(
        "another graph than the one described",
        "encoder",
        (describe(model_sha256="0" * 64),),
        "engine/1/model.onnx is another graph than triton.json describes",
    ),
    Mistake(
        "a model that triton.json does not know",
        "encoder",
        (
            write("spare/config.pbtxt", 'name: "spare"\nbackend: "python"\n'),
            write("spare/1/model.py", ""),
        ),
        'triton.json: models lacks "spare"',
    ),
    Mistake(
        "an instance on a GPU where a CPU was planned",
        "encoder",
        (in_config("engine", "KIND_CPU", "KIND_GPU"),),
        "instance_group.kind is KIND_GPU; triton.json says device cpu",
    ),
    Mistake(
        "buckets of the tokenizer that were not planned",
        "encoder",
        (replace("tokenizer/1/settings.json", "[4, 8]", "[6]"),),
        "tokenizer/1/settings.json: buckets is [6]; triton.json says [4, 8]",
    ),
    Mistake(
        "a tokenizer's output that the config does not have",
        "encoder",
        (replace("tokenizer/1/settings.json", '"attention_mask"', '"token_type_ids"'),),
        "outputs is ['input_ids', 'token_type_ids']; config.pbtxt says",
    ),
    Mistake(
        "no file of the tokenizer",
        "encoder",
        (remove("tokenizer/1/tokenizer.json"),),
        'tokenizer/1/settings.json: tokenizer is "tokenizer.json"; a file or folder of 1/',
    ),
    Mistake(
        "fewer texts than tokens",
        "encoder",
        (write("postprocessor/1/tokens.json", '["zero"]'),),
        "postprocessor/1/tokens.json has 1 texts; the model's 8 tokens have one each",
    ),
    Mistake(
        "a postprocessor for another task",
        "encoder",
        (replace("postprocessor/1/settings.json", "fill_mask", "embed"),),
        'postprocessor/1/settings.json: task is "embed"; triton.json says "fill_mask"',
    ),
)
