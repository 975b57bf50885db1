"""Which files belong to a set that the command line names."""

from dataclasses import dataclass
from pathlib import Path

from llmopt.artifacts.files import expand_home
from llmopt.data.dataset_spec import DEFAULT_SPLIT, DatasetSpec, list_shipped_sets
from llmopt.errors import InputError, RecipeError

TERMS_NAME = "terms.json"
HELDOUT = "heldout"


@dataclass(frozen=True)
class SetFiles:
    """The files of a set.

    Attributes:
        source: The fields of a `DatasetSpec` that mean the set.
        data: The file of its documents.
        heldout: Its held-out documents, where they are another file.
        terms: Its list of terms.
    """

    source: dict[str, str]
    data: Path
    heldout: Path | None = None
    terms: Path | None = None


def locate_set(name: str, split: str) -> SetFiles:
    """Finds a set by a file, a shipped set's name, or a folder of splits.

    Raises:
        InputError: It is none of them, or has no such split.
        RecipeError: A split of a single file is asked for.
    """
    path = expand_home(name)
    if path.is_file():
        if split != DEFAULT_SPLIT:
            raise RecipeError(
                f"--split {split}: {name} is one file, which has no splits",
                remedy="leave --split out, or name the folder",
            )
        return SetFiles({"path": name}, path)
    if path.is_dir() and name not in list_shipped_sets():
        data = path / f"{split}.jsonl"
        if Path(split).name != split or not data.is_file():
            raise InputError(
                f"folder {name} has no {split}.jsonl",
                remedy="name a file, or another split with --split",
            )
        return _add_neighbours({"path": str(data)}, data)
    if Path(name).name != name or path.suffix:
        raise InputError(f"data set {name} does not exist")
    spec = DatasetSpec(set=name, split=split)
    return _add_neighbours({"set": name, "split": split}, spec.locate(Path()))


def locate_terms(name: str) -> Path:
    """Finds a list of terms by a file's name, or by that of a shipped set that has one."""
    if name in list_shipped_sets():
        return DatasetSpec(set=name).locate(Path()).with_name(TERMS_NAME)
    return expand_home(name)


def _add_neighbours(source: dict[str, str], data: Path) -> SetFiles:
    heldout, terms = data.with_name(f"{HELDOUT}.jsonl"), data.with_name(TERMS_NAME)
    return SetFiles(
        source,
        data,
        heldout if heldout.is_file() and heldout != data else None,
        terms if terms.is_file() else None,
    )
