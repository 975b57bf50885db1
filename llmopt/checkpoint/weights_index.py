"""Finds every tensor of a checkpoint folder, in one safetensors file or many."""

import json
from pathlib import Path

from llmopt.checkpoint.safetensors_header import TensorEntry, read_header
from llmopt.errors import InputError

SINGLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
PICKLE_PATTERNS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
CONVERT_HINT = (
    "llmopt reads no pickles, since loading one runs its code; convert it where you trust it: "
    "transformers' AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER), with "
    "AutoModelForMaskedLM for a BERT"
)


def list_weight_files(folder: Path) -> list[Path]:
    """Lists the safetensors files of a checkpoint folder, in the index's order.

    Raises:
        InputError: There are none, only a pickle, or the index names a file that is missing
            or lies outside the folder.
    """
    index = folder / INDEX_NAME
    if index.exists():
        return [
            _resolve_shard(folder, name) for name in sorted(set(_read_weight_map(index).values()))
        ]
    if (folder / SINGLE_NAME).exists():
        return [folder / SINGLE_NAME]
    others = sorted(folder.glob("*.safetensors"))
    if len(others) == 1:
        return others
    if others:
        raise InputError(f"{folder} holds {len(others)} safetensors files but no {INDEX_NAME}")
    for pattern in PICKLE_PATTERNS:
        for path in sorted(folder.glob(pattern)):
            raise InputError(f"{path} is a pickle checkpoint", remedy=CONVERT_HINT)
    for path in sorted(folder.glob("*.onnx")):
        raise InputError(
            f"{path} is an ONNX model; {folder} holds no weights in safetensors",
            remedy="name the checkpoint that it was exported from",
        )
    raise InputError(f"{folder} holds no weights: neither {SINGLE_NAME} nor {INDEX_NAME}")


def index_tensors(folder: Path) -> dict[str, TensorEntry]:
    """Reads all headers of a checkpoint folder: tensor name → where it lies.

    Raises:
        InputError: A file is missing or corrupt, a tensor occurs twice, or the index and the
            files disagree.
    """
    entries: dict[str, TensorEntry] = {}
    for path in list_weight_files(folder):
        for name, entry in read_header(path).items():
            if name in entries:
                raise InputError(f"tensor {name} is in both {entries[name].file} and {path}")
            entries[name] = entry
    index = folder / INDEX_NAME
    if index.exists():
        for name in sorted(set(_read_weight_map(index)) - set(entries)):
            raise InputError(
                f"{index} lists tensor {name}, but no weights file holds it",
                remedy="complete the download of the checkpoint, or copy the index again",
            )
    return entries


def _read_weight_map(index: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return {str(name): str(file) for name, file in weight_map.items()}
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"{index} is no safetensors index (no JSON with a weight_map)",
            remedy="copy it from its source again",
        ) from None


def _resolve_shard(folder: Path, name: str) -> Path:
    if Path(name).name != name or (folder / name).is_dir():
        raise InputError(
            f"{folder / INDEX_NAME} names {name!r}, which is not a file of that folder"
        )
    if not (folder / name).exists():
        raise InputError(
            f"{folder / INDEX_NAME} names {name}, which is missing",
            remedy="complete the download of the checkpoint",
        )
    return folder / name
