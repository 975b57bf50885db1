"""Mistakes against triton.json, requirements.txt and the server's release."""

from tests.triton.mistakes.planting import (
    Mistake,
    add_field,
    describe,
    in_config,
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
        "numpy below 2.1 for a release that breaks with 2.0",
        "encoder",
        (write("requirements.txt", "numpy>=1.26,<2.1\n"),),
        'requirements.txt: numpy is "numpy<2.1,>=1.26"; the python backend of 24.10 breaks',
    ),
    Mistake(
        "numpy below 20",
        "encoder",
        (write("requirements.txt", "numpy<20\n"),),
        'requirements.txt: numpy is "numpy<20"; the python backend of 24.10 breaks with numpy 2',
    ),
    Mistake(
        "numpy 2.1 and later alone",
        "encoder",
        (write("requirements.txt", "numpy>=2.1,<3\n"),),
        'requirements.txt: numpy is "numpy<3,>=2.1"; the python backend of 24.10 breaks',
    ),
    Mistake(
        "numpy 1 for another Python alone",
        "encoder",
        (write("requirements.txt", 'numpy<2; python_version > "3.11"\n'),),
        "requirements.txt: numpy is not there; the python backend of 24.10 breaks with numpy 2",
    ),
    Mistake(
        "requirements.txt in Latin-1",
        "encoder",
        (write("requirements.txt", "# für den Server\nnumpy<2\n".encode("latin-1")),),
        "requirements.txt: byte 3 is 0xfc; UTF-8 is allowed: save it in UTF-8",
    ),
    Mistake(
        "a requirement that pip does not read",
        "encoder",
        (write("requirements.txt", "numpy<<2\n"),),
        'requirements.txt: line 1 is "numpy<<2"',
    ),
    Mistake(
        "onnxruntime-genai in onnxruntime's place",
        "counter",
        (replace("requirements.txt", "onnxruntime\n", "onnxruntime-genai\n"),),
        "imports onnxruntime; packages of requirements.txt are allowed: jinja2, numpy, onnxrun",
    ),
    Mistake(
        "a delay on the tokenizer",
        "encoder",
        (add_field("tokenizer", DELAY),),
        "tokenizer/config.pbtxt: dynamic_batching.max_queue_delay_microseconds is 100000",
    ),
    Mistake(
        "a delay other than the one that was planned",
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
)
