"""Finds the folder of a model source and names its contents by a digest."""

import re
from pathlib import Path

from llmopt.artifacts.deferred_build import DEFERRED_BUILD_NAME
from llmopt.artifacts.digest import FileHasher, digest_value
from llmopt.artifacts.engine_description import (
    ENGINE_DESCRIPTION_NAME,
    ENGINE_NAME,
    read_engine_description,
)
from llmopt.artifacts.hub_snapshot import HubRepository, find_snapshot
from llmopt.artifacts.onnx_description import (
    DATA_NAME,
    DESCRIPTION_NAME,
    MODEL_NAME,
    read_onnx_description,
)
from llmopt.artifacts.triton_description import TRITON_DESCRIPTION_NAME
from llmopt.checkpoint.sidecar_files import list_sidecars
from llmopt.checkpoint.weights_index import INDEX_NAME, list_weight_files
from llmopt.errors import InputError
from llmopt.recipe.recipe import SourceSpec

EXPORT_TITLE = "an ONNX model that export.onnx made"
COMMIT = re.compile(r"[0-9a-f]{40}\Z")
DOWNLOAD_PATTERNS = (
    "*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "LICENSE*", "*.py",
)  # fmt: skip


def locate_source(spec: SourceSpec, base: Path) -> Path:
    """Returns the folder of a model; one of the hub that is not downloaded does not exist yet.

    Args:
        spec: Local folder or hub id.
        base: Where relative paths start.

    Raises:
        InputError: No such folder, or it holds something else than the source is to be.
    """
    local = spec.local_folder(base)
    if local is None:
        repository = hub_model(spec)
        return find_snapshot(repository) or repository.placeholder
    if local.is_file():
        raise InputError(
            f"{local} is a file; a model is given as its folder",
            remedy=f"give its folder: {local.parent}",
        )
    if not local.is_dir():
        raise InputError(
            f"model folder {local} does not exist",
            remedy="a hub id is written org/model, a folder with a leading ./ or /",
        )
    if spec.kind == "onnx_model":
        require_export(local)
    elif spec.kind == "tensorrt_engine":
        require_engine(local)
    else:
        refuse_made(local)
    return local


def refuse_made(folder: Path) -> None:
    """Refuses what llmopt made of a checkpoint in the place of a checkpoint.

    Raises:
        InputError: It is an exported model, an engine, or a deferred build.
    """
    what = name_made(folder)
    if what is None:
        return
    own = f"to check it: llmopt verify {folder}"
    if what == EXPORT_TITLE:
        own = f"an engine is built from this folder by llmopt build-trt {folder}; {own}"
    raise InputError(
        f"{folder} is {what}, not a checkpoint (config.json and safetensors)",
        remedy=f"name the checkpoint that it was made from; {own}",
    )


def require_export(folder: Path) -> None:
    """Refuses what is no folder of `export.onnx` in the place of one.

    Raises:
        InputError: It is something else, or an ONNX model without its description.
    """
    what = name_made(folder)
    if what == EXPORT_TITLE:
        return
    if what is None and (folder / "config.json").exists():
        what = "a checkpoint"
    elif what is None and any(folder.glob("*.onnx")):
        what = "an ONNX model that llmopt export-onnx did not write"
    holds = f"holds no {DESCRIPTION_NAME}" + (f": it is {what}" if what is not None else "")
    raise InputError(
        f"{folder} is no exported model: it {holds}",
        remedy="export the checkpoint with llmopt export-onnx and name that folder",
    )


def require_engine(folder: Path) -> None:
    """Refuses what is no folder of `build.tensorrt` in the place of one.

    Raises:
        InputError: It is something else.
    """
    if (folder / ENGINE_DESCRIPTION_NAME).exists():
        return
    what = name_made(folder)
    holds = f"holds no {ENGINE_DESCRIPTION_NAME}" + (f": it is {what}" if what is not None else "")
    raise InputError(
        f"{folder} is no TensorRT engine: it {holds}",
        remedy="build one with llmopt build-trt and name that folder",
    )


def name_made(folder: Path) -> str | None:
    """Says what llmopt made of a model in a folder; None for a checkpoint and all else."""
    titles = {
        ENGINE_DESCRIPTION_NAME: "a TensorRT engine",
        DEFERRED_BUILD_NAME: "a deferred build of an engine",
        DESCRIPTION_NAME: EXPORT_TITLE,
        TRITON_DESCRIPTION_NAME: "a Triton repository",
    }
    return next((title for name, title in titles.items() if (folder / name).exists()), None)


def holds_model(folder: Path) -> bool:
    """Tells a model from a snapshot that holds a part of one: no config, or not every shard."""
    try:
        return (folder / "config.json").exists() and bool(list_weight_files(folder))
    except InputError:
        return False


def hub_model(spec: SourceSpec) -> HubRepository:
    """Names a hub model's repository and the files of it that are wanted."""
    return HubRepository("model", str(spec.hf), spec.revision, DOWNLOAD_PATTERNS, holds_model)


def describe_source(spec: SourceSpec, folder: Path) -> str:
    """Writes the source as its short form, with the commit that a tag or branch stands for."""
    if spec.hf is None or not COMMIT.match(folder.name) or folder.name == spec.revision:
        return spec.describe()
    return f"{spec.describe()} (commit {folder.name})"


def digest_source(spec: SourceSpec, folder: Path, hasher: FileHasher) -> str:
    """Names a model's contents: its weights, config and tokenizer, or its commit on the hub.

    Raises:
        InputError: A source of kind onnx_model or tensorrt_engine that no step of that kind made.
    """
    if spec.hf is not None:
        revision = spec.revision or ""
        # A snapshot's folder is named by its commit.
        commit = revision if COMMIT.match(revision) else folder.name
        return digest_value({"hf": spec.hf, "commit": commit, "code": spec.trust_remote_code})
    if spec.kind == "onnx_model":
        read_onnx_description(folder)
        names = [n for n in (MODEL_NAME, DATA_NAME, DESCRIPTION_NAME) if (folder / n).exists()]
        return hasher.digest_folder(folder, [*names, *_list_tokenizer(folder)])
    if spec.kind == "tensorrt_engine":
        read_engine_description(folder)
        return hasher.digest_folder(folder, [ENGINE_NAME, ENGINE_DESCRIPTION_NAME])
    digest = digest_model_folder(folder, hasher)
    if not spec.trust_remote_code:
        return digest
    code = [path.name for path in folder.glob("*.py")]
    return digest_value({"model": digest, "code": hasher.digest_folder(folder, code)})


def _list_tokenizer(folder: Path) -> list[str]:
    """Lists what an export holds for its tokenizer: repositories are made of it too."""
    config = [folder / "config.json"] if (folder / "config.json").exists() else []
    return [path.name for path in (*config, *list_sidecars(folder))]


def digest_model_folder(folder: Path, hasher: FileHasher) -> str:
    """Returns the digest over a checkpoint folder's weights, config and sidecar files."""
    paths = [*list_weight_files(folder), *list_sidecars(folder)]
    paths += [folder / name for name in ("config.json", INDEX_NAME) if (folder / name).exists()]
    return hasher.digest_folder(folder, [path.name for path in paths])
