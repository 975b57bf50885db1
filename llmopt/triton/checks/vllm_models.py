"""A vLLM model: its config and the engine arguments in model.json."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llmopt.triton.checks.report import Fault, Finding, Unchecked
from llmopt.triton.checks.repository import Repository, ServedModel

WEIGHTS = "*.safetensors"
DTYPES = ("auto", "half", "float16", "bfloat16", "float", "float32")


def find_vllm_faults(_: Repository, model: ServedModel) -> Iterator[Finding]:
    """Judges model.json of each served version."""
    yield from _find_border_faults(model)
    for version, folder in model.served_versions.items():
        path = folder / model.model_file
        if not path.is_file():
            continue
        file = f"{version}/{model.model_file}"
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            yield model.fault(
                "", f"is no JSON ({error})", "an object of engine arguments is allowed",
                "correct it", file,
            )  # fmt: skip
            continue
        if not isinstance(settings, dict) or not isinstance(settings.get("model"), str):
            yield model.fault(
                "model", "is not set", "a checkpoint's folder or name is needed", "set it", file
            )
            continue
        yield from _find_argument_faults(model, file, settings)
        yield from _find_checkpoint_faults(model, file, settings["model"])
    yield Unchecked(f"{model.name}: loading it, which needs vLLM")


def _find_border_faults(model: ServedModel) -> Iterator[Fault]:
    for side, needed, tensors in (
        ("input", "text_input", model.config.input),
        ("output", "text_output", model.config.output),
    ):
        names = [tensor.name for tensor in tensors]
        if names and needed not in names:
            yield model.fault(
                side, f'lacks "{needed}"', "the backend's own names are allowed", "declare it"
            )


def _find_argument_faults(
    model: ServedModel, file: str, settings: dict[str, Any]
) -> Iterator[Fault]:
    for name, (allows, allowed) in ARGUMENTS.items():
        if name in settings and not allows(settings[name]):
            yield model.fault(name, f"is {settings[name]!r}", allowed, "correct it", file)


def _find_checkpoint_faults(model: ServedModel, file: str, name: str) -> Iterator[Finding]:
    """Looks for a checkpoint that lies inside the repository, wherever that is mounted."""
    path = Path(name)
    if not path.is_absolute() and not name.startswith("."):
        yield Unchecked(f"{model.name}: checkpoint {name}, a name on the hub")
        return
    if not path.is_absolute():
        yield model.fault(
            "model",
            f'is "{name}"',
            "an absolute path, or a name on the hub, is allowed: the server's working folder is "
            "not the repository",
            "write the path on the server, such as /models/NAME/1/checkpoint",
            file,
        )
        return
    if model.name not in path.parts:
        yield Unchecked(f"{model.name}: checkpoint {path}, a path on the server's machine")
        return
    inside = path.parts[len(path.parts) - path.parts[::-1].index(model.name) :]
    local = model.folder.joinpath(*inside)
    if not (local / "config.json").is_file() or not any(local.glob(WEIGHTS)):
        yield model.fault(
            "model",
            f'is "{path}"',
            f"a checkpoint is needed at {model.name}/{'/'.join(inside)}: config.json and {WEIGHTS}",
            "put it there, or correct the path",
            file,
        )


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


# What vLLM's parser takes for the arguments that repositories set most.
ARGUMENTS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "gpu_memory_utilization": (_is_share, "more than 0, up to 1, is allowed"),
    "max_model_len": (_is_count, "1 or more is allowed"),
    "max_num_seqs": (_is_count, "1 or more is allowed"),
    "tensor_parallel_size": (_is_count, "1 or more is allowed"),
    "dtype": (DTYPES.__contains__, f"{', '.join(DTYPES)} are allowed"),
}
