"""Finds the folder of a model source and names its contents by a digest."""

import re
from pathlib import Path

from llmopt.artifacts.digest import FileHasher, digest_value
from llmopt.checkpoint.sidecar_files import list_sidecars
from llmopt.checkpoint.weights_index import INDEX_NAME, list_weight_files
from llmopt.errors import InputError
from llmopt.recipe.recipe import SourceSpec

COMMIT = re.compile(r"[0-9a-f]{40}\Z")
DOWNLOAD_PATTERNS = [
    "*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "LICENSE*", "*.py",
]  # fmt: skip


def locate_source(spec: SourceSpec, base: Path, *, download: bool) -> Path:
    """Returns the folder of a model.

    Args:
        spec: Local folder or hub id.
        base: Where relative paths start.
        download: Whether a hub model that is not in the local cache is fetched; without it the
            returned folder may not exist.

    Raises:
        InputError: No such folder, or the hub refuses or can't be reached.
    """
    local = spec.local_folder(base)
    if local is not None:
        if not local.is_dir():
            raise InputError(
                f"model folder {local} does not exist",
                remedy="a hub id is written org/model, a folder with a leading ./ or /",
            )
        return local
    return _locate_hub_model(spec, download=download)


def _locate_hub_model(spec: SourceSpec, *, download: bool) -> Path:
    # Imported here: the hub's client takes longer to load than most recipes to validate.
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import (  # type: ignore[attr-defined]  # noqa: PLC0415
        HTTPError,
        LocalEntryNotFoundError,
    )

    try:
        folder = snapshot_download(
            repo_id=str(spec.hf),
            revision=spec.revision,
            allow_patterns=DOWNLOAD_PATTERNS,
            local_files_only=not download,
        )
    except LocalEntryNotFoundError:
        if not download:
            return Path(f"hub:{spec.hf}@{spec.revision or 'main'}")
        raise InputError(
            f"model {spec.hf}@{spec.revision or 'main'} is not in the local cache and the hub "
            "can't be reached",
            remedy="connect and run again, or give a local folder",
        ) from None
    except (HTTPError, OSError, ValueError) as error:
        raise InputError(f"model {spec.hf}@{spec.revision or 'main'}: {error}") from None
    if not download and not _holds_model(Path(folder)):
        return Path(f"hub:{spec.hf}@{spec.revision or 'main'}")
    return Path(folder)


def _holds_model(folder: Path) -> bool:
    """Tells a whole model from a snapshot that holds a part of one."""
    if not (folder / "config.json").exists():
        return False
    try:
        return bool(list_weight_files(folder)) and any(folder.glob("tokenizer*"))
    except InputError:
        return False  # a shard of the index is missing


def digest_source(spec: SourceSpec, folder: Path, hasher: FileHasher) -> str:
    """Names a model's contents: its weights, config and tokenizer, or its commit on the hub."""
    if spec.hf is not None:
        revision = spec.revision or ""
        # A snapshot's folder is named by its commit.
        commit = revision if COMMIT.match(revision) else folder.name
        return digest_value({"hf": spec.hf, "commit": commit, "code": spec.trust_remote_code})
    digest = digest_model_folder(folder, hasher)
    if not spec.trust_remote_code:
        return digest
    code = [path.name for path in folder.glob("*.py")]
    return digest_value({"model": digest, "code": hasher.digest_folder(folder, code)})


def digest_model_folder(folder: Path, hasher: FileHasher) -> str:
    """Returns the digest over a checkpoint folder's weights, config and sidecar files."""
    paths = [*list_weight_files(folder), *list_sidecars(folder)]
    paths += [folder / name for name in ("config.json", INDEX_NAME) if (folder / name).exists()]
    return hasher.digest_folder(folder, [path.name for path in paths])
