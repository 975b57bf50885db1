"""What a recipe says of a data set, and which files that means."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from llmopt.artifacts.files import expand_home
from llmopt.errors import InputError

PACKAGE_FOLDER = Path(__file__).parent.parent
# In a wheel the sets lie inside the package, in a checkout beside it.
SHIPPED_FOLDERS = (PACKAGE_FOLDER / "calibration", PACKAGE_FOLDER.parent / "calibration")

DEFAULT_SAMPLES = 64
DEFAULT_SEQ_LEN = 512

Template = Literal["none", "chat"]
Packing = Literal["concat", "pad", "truncate"]


class DatasetSpec(BaseModel):
    """A data set of a recipe: exactly one of `set` and `path`, and how it is cut into samples."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    set: str | None = Field(None, description="Name of a shipped set, such as apparel-ja.")
    path: str | None = Field(
        None,
        description="A file of documents: .jsonl (one object per line) or .txt (documents "
        "separated by blank lines), UTF-8.",
    )
    split: str = Field(
        "calibration", description="Which file of a shipped set: calibration or heldout."
    )
    field: str | None = Field(
        None, description="Field that holds a document (default: messages if present, else text)."
    )
    samples: int | None = Field(
        None,
        ge=1,
        description=f"Calibration: windows of seq_len tokens (default {DEFAULT_SAMPLES}). "
        "Evaluation: documents at most (default all).",
    )
    seq_len: int | None = Field(
        None,
        ge=2,
        description=f"Calibration: tokens per window (default {DEFAULT_SEQ_LEN}). Evaluation: "
        "tokens the model sees at once (default 2048 or what the model allows).",
    )
    template: Template = Field(
        "none", description="chat renders `messages` by the tokenizer's chat template."
    )
    pack: Packing = Field(
        "concat",
        description="concat joins documents and cuts windows; pad and truncate take one document "
        "per window, pad fills short ones, truncate leaves them out.",
    )
    seed: int = Field(0, ge=0, description="Seed of the documents' order.")

    @model_validator(mode="after")
    def _check_one_source(self) -> "DatasetSpec":
        given = [name for name in ("set", "path") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of set and path (given: {given or 'none'})")
        return self

    @property
    def num_windows(self) -> int:
        """How many calibration windows there are."""
        return self.samples or DEFAULT_SAMPLES

    @property
    def window_tokens(self) -> int:
        """Tokens of a calibration window."""
        return self.seq_len or DEFAULT_SEQ_LEN

    def describe(self) -> str:
        """Writes what is set, as `key=value` words."""
        given = self.model_dump(exclude_defaults=True)
        return " ".join(f"{key}={value}" for key, value in given.items())

    def locate(self, base: Path) -> Path:
        """Finds the data set's file; relative paths start at `base`.

        Raises:
            InputError: No such set, split or file.
        """
        if self.set is not None:
            return _locate_shipped(self.set, self.split)
        path = base / expand_home(str(self.path))
        if not path.is_file():
            raise InputError(f"data set file {path} does not exist")
        return path


def list_shipped_sets() -> list[str]:
    """Lists the names of the sets that come with llmopt."""
    return sorted(
        {
            file.parent.name
            for folder in SHIPPED_FOLDERS
            for file in folder.glob("*/calibration.jsonl")
        }
    )


def _locate_shipped(name: str, split: str) -> Path:
    if name not in list_shipped_sets():
        shipped = ", ".join(list_shipped_sets()) or "none"
        raise InputError(f"there is no shipped data set {name!r}; shipped: {shipped}")
    folder = next(f / name for f in SHIPPED_FOLDERS if (f / name / "calibration.jsonl").exists())
    path = folder / f"{split}.jsonl"
    if Path(split).name != split or not path.exists():
        splits = ", ".join(sorted(file.stem for file in folder.glob("*.jsonl")))
        raise InputError(f"data set {name} has no split {split!r}; it has: {splits}")
    return path
