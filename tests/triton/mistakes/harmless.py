"""Changes that are no mistakes: llmopt must not call them so, and the server serves them."""

from pathlib import Path

from tests.triton.mistakes.in_schedules import BATCHING, GROUP
from tests.triton.mistakes.planting import (
    Edit,
    Mistake,
    add_field,
    in_config,
    rename,
    replace,
    set_json,
    write,
)

POLICY = "version_policy { latest { num_versions: 1 } }"


def _harmless(name: str, base: str, *edits: Edit) -> Mistake:
    return Mistake(name, base, edits, message="")


def _use_windows_ends(folder: Path) -> None:
    """Ends every line of scorer's config as Windows does."""
    path = folder / "scorer" / "config.pbtxt"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))


HARMLESS = (
    _harmless("a config without a name", "words", in_config("scorer", 'name: "scorer"\n', "")),
    _harmless(
        "a config without a backend", "words", in_config("scorer", 'backend: "python"\n', "")
    ),
    _harmless(
        "a platform instead of a backend",
        "encoder",
        in_config("engine", 'backend: "onnxruntime"', 'platform: "onnxruntime_onnx"'),
    ),
    _harmless("a config with Windows' line ends", "words", _use_windows_ends),
    _harmless("no instance group", "words", in_config("scorer", f"{GROUP}\n", "")),
    _harmless("two instances", "words", in_config("scorer", GROUP, GROUP.replace("1", "2"))),
    _harmless("no dynamic batching", "words", in_config("scorer", f"{BATCHING}\n", "")),
    _harmless("no version policy", "words", in_config("scorer", f"{POLICY}\n", "")),
    _harmless(
        "all versions",
        "words",
        in_config("scorer", POLICY, "version_policy { all { } }"),
    ),
    _harmless(
        "a version that is named",
        "words",
        in_config("scorer", POLICY, "version_policy { specific { versions: [ 1 ] } }"),
    ),
    _harmless(
        "a version that is named beside one that is yet to come",
        "words",
        in_config("scorer", POLICY, "version_policy { specific { versions: [ 1, 3 ] } }"),
    ),
    _harmless("a version 12", "words", rename("scorer/1", "scorer/12")),
    _harmless("an unnumbered folder in a model", "words", write("scorer/notes/read.txt", "no")),
    _harmless("a file beside the models", "words", write("notes.txt", "no")),
    _harmless(
        "a smaller batch than the steps take",
        "words",
        in_config("words", "max_batch_size: 8", "max_batch_size: 2"),
    ),
    _harmless(
        "an open size where the step has a fixed one",
        "words",
        in_config("words", "dims: [ 3 ]", "dims: [ -1 ]"),
    ),
    _harmless(
        "an optional input that no step maps",
        "words",
        add_field(
            "scorer", 'input { name: "EXTRA" data_type: TYPE_FP32 dims: [ 1 ] optional: true }'
        ),
    ),
    _harmless(
        "an ensemble that takes the whole shape",
        "words",
        in_config("words", "max_batch_size: 8", "max_batch_size: 0"),
        in_config("words", "dims: [ 1 ]", "dims: [ -1, 1 ]"),
        in_config("words", "dims: [ 3 ]", "dims: [ -1, 3 ]"),
    ),
    _harmless(
        "a step that takes the whole shape",
        "words",
        in_config("reader", "max_batch_size: 8", "max_batch_size: 0"),
        in_config(
            "reader",
            'name: "TEXT" data_type: TYPE_STRING dims: [ 1 ]',
            'name: "TEXT" data_type: TYPE_STRING dims: [ -1, 1 ]',
        ),
        *(
            in_config(
                "reader",
                f'"{name}" data_type: TYPE_INT64 dims: [ 4 ]',
                f'"{name}" data_type: TYPE_INT64 dims: [ -1, 4 ]',
            )
            for name in ("IDS", "MASK")
        ),
        in_config(
            "reader",
            "value { data_type: TYPE_STRING dims: [ 1 ]",
            "value { data_type: TYPE_STRING dims: [ 1, 1 ]",
        ),
        in_config("reader", "    batch_size: 1\n", ""),
    ),
    _harmless(
        "priorities with a default",
        "words",
        in_config(
            "scorer",
            BATCHING,
            "dynamic_batching { priority_levels: 2 default_priority_level: 1 "
            "priority_queue_policy { key: 2 value { max_queue_size: 4 } } }",
        ),
    ),
    _harmless(
        "a reshape to the same number of values",
        "encoder",
        in_config("engine", "dims: [ 8 ] }", "dims: [ 8 ] reshape { shape: [ 8 ] } }"),
    ),
    _harmless(
        "an input narrower than the graph's",
        "encoder",
        in_config(
            "engine",
            '"input_ids" data_type: TYPE_INT64 dims: [ -1 ]',
            '"input_ids" data_type: TYPE_INT64 dims: [ 4 ]',
        ),
    ),
    _harmless(
        "random warm-up",
        "encoder",
        replace(
            "engine/config.pbtxt",
            'key: "attention_mask" value { data_type: TYPE_INT64 dims: [ 4 ] zero_data: true',
            'key: "attention_mask" value { data_type: TYPE_INT64 dims: [ 4 ] random_data: true',
        ),
    ),
    _harmless(
        "a response cache that the server lacks",
        "words",
        add_field("scorer", "response_cache { enable: true }"),
    ),
    _harmless(
        "a rate limiter",
        "words",
        in_config(
            "scorer",
            GROUP,
            "instance_group [ { count: 1 kind: KIND_CPU rate_limiter { priority: 2 } } ]",
        ),
    ),
    _harmless(
        "an output by another way to the same type",
        "words",
        replace(
            "scorer/1/model.py",
            "np.stack(rows, axis=1).astype(np.float32)",
            'np.asarray(np.stack(rows, axis=1), dtype="float32").reshape(-1, 3)',
        ),
    ),
    _harmless(
        "a shorter context than the model's positions",
        "counter",
        set_json("counter/1/generation.json", max_context=16, max_prompt_tokens=15),
    ),
    _harmless(
        "other numbers where they are a choice",
        "counter",
        set_json("counter/1/generation.json", limits__max_waiting=1, threads=None, warm_up=False),
    ),
)
