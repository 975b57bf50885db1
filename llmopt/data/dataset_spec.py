"""What a recipe says of a data set, and which files that means."""

import math
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from llmopt.artifacts.files import expand_home
from llmopt.errors import InputError

PACKAGE_FOLDER = Path(__file__).parent.parent
# In a wheel the sets lie inside the package, in a checkout beside it.
SHIPPED_FOLDERS = (PACKAGE_FOLDER / "calibration", PACKAGE_FOLDER.parent / "calibration")
DEFAULT_SPLIT = "calibration"  # of a shipped set
DEFAULT_SAMPLES = 64
DEFAULT_SEQ_LEN = 512
MAX_SAMPLES = 1_000_000
MAX_SEQ_LEN = 10_000_000

Template = Literal["none", "chat"]
Packing = Literal["concat", "pad", "truncate"]


class DataPart(BaseModel):
    """Where documents come from: exactly one of `set`, `path` and `hf`."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    set: str | None = Field(None, description="Name of a shipped set, such as apparel-ja.")
    path: str | None = Field(
        None,
        description="A file of documents, UTF-8: .jsonl (one object per line; also .jsonl.gz), "
        ".json (a list of objects), .csv (with a header), .parquet, or .txt (documents separated "
        "by blank lines). Relative to the recipe.",
    )
    hf: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$",
        description="A data set on the hub, such as org/name; wants a revision.",
    )
    revision: str | None = Field(
        None,
        min_length=1,
        description="The hub's commit, tag or branch; a tag or branch stays at the commit that "
        "was downloaded.",
    )
    split: str | None = Field(
        None,
        description="Of a shipped set: calibration (default) or heldout. "
        "Of one on the hub: its split (default train).",
    )
    field: str | None = Field(
        None, description="Field that holds a document (default: messages if present, else text)."
    )

    @model_validator(mode="after")
    def _check_one_source(self) -> "DataPart":
        given = [name for name in ("set", "path", "hf") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of set, path and hf (given: {given or 'none'})")
        if self.hf is not None and self.revision is None:
            raise ValueError(f"hf: {self.hf} wants a revision: a commit, a tag or a branch")
        if self.hf is None and self.revision is not None:
            raise ValueError(f"revision {self.revision!r} is for hf; {given[0]} has none")
        if self.path is not None and self.split is not None:
            raise ValueError(f"split {self.split!r} is for set and hf; path names one file")
        return self

    @property
    def label(self) -> str:
        """The source in one word, for messages."""
        return self.set or self.path or f"{self.hf}@{self.revision}"

    @property
    def hub_split(self) -> str:
        """The split of a data set on the hub."""
        return self.split or "train"

    def locate(self, base: Path) -> Path:
        """Finds the file of a shipped set or a path; relative paths start at `base`.

        Raises:
            InputError: No such set, split or file.
        """
        assert self.hf is None, "a snapshot is located by llmopt.data.dataset_files"
        if self.set is not None:
            return _locate_shipped(self.set, self.split or DEFAULT_SPLIT)
        path = base / expand_home(str(self.path))
        if not path.is_file():
            raise InputError(f"data set file {path} does not exist")
        return path


class MixPart(DataPart):
    """A further part of a data set: exactly one of `set`, `path` and `hf`, and its weight."""

    template: Template | None = Field(
        None, description="none or chat, for this part (default: the data set's)."
    )
    weight: float = Field(
        gt=0,
        lt=1,
        description="This part's share of the samples; the data set itself gets what is left.",
    )


class DataRequirements(BaseModel):
    """What a data set must be like. A miss is an error that names the numbers and the worst."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    min_rows: int | None = Field(None, ge=1, description="Documents at least.")
    min_japanese_share: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Least share of the documents that are over 30 % kana and kanji, "
        "whitespace left out.",
    )
    max_overlap: dict[str, float] = Field(
        default_factory=dict,
        description="Name of another data set of the recipe → greatest share of any of its "
        "documents' 30-character sequences that may stand in this set too. Whitespace, Markdown "
        "headings, table rules, JSON keys and punctuation do not count.",
    )
    min_document_tokens: int | None = Field(
        None,
        ge=1,
        description="Tokens that each document has at least; checked when the step runs.",
    )

    @model_validator(mode="after")
    def _check_shares(self) -> "DataRequirements":
        for name, share in self.max_overlap.items():
            if not 0 <= share <= 1:
                raise ValueError(f"max_overlap.{name} is a share from 0 to 1, not {share:g}")
        return self


class DatasetSpec(DataPart):
    """A data set of a recipe: exactly one of `set`, `path` and `hf`, and how it is cut."""

    samples: int | None = Field(
        None,
        ge=1,
        le=MAX_SAMPLES,
        description=f"Calibration: windows of seq_len tokens (default {DEFAULT_SAMPLES}). "
        "Evaluation: documents at most (default all; with mix it must be given).",
    )
    seq_len: int | None = Field(
        None,
        ge=2,
        le=MAX_SEQ_LEN,
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
    mix: tuple[MixPart, ...] = Field((), description="Further parts, each with its weight.")
    require: DataRequirements | None = Field(
        None, description="What the documents, of all parts together, must be like."
    )

    @model_validator(mode="after")
    def _check_weights(self) -> "DatasetSpec":
        if not self.mix:
            return self
        if (total := math.fsum(part.weight for part in self.mix)) >= 1:
            raise ValueError(
                f"the weights of mix sum to {total:g}; they must stay below 1, for the data set "
                "itself gets the rest"
            )
        samples = self.num_windows
        for part, count in zip((self, *self.mix), share_out(samples, self.weights()), strict=True):
            if count == 0:
                raise ValueError(
                    f"of {samples} samples, {part.label} would get none by the weights of mix: "
                    "raise samples or its weight"
                )
        return self

    @property
    def num_windows(self) -> int:
        """How many calibration windows there are."""
        return self.samples or DEFAULT_SAMPLES

    @property
    def window_tokens(self) -> int:
        """Tokens of a calibration window."""
        return self.seq_len or DEFAULT_SEQ_LEN

    def weights(self) -> list[float]:
        """Returns the share of each part; the data set itself is the first."""
        weights = [part.weight for part in self.mix]
        return [1 - math.fsum(weights), *weights]

    def describe(self) -> str:
        """Writes what decides the documents, as `key=value` words."""
        given = self.model_dump(exclude_defaults=True, exclude={"mix", "require"})
        words = [f"{key}={value}" for key, value in given.items()]
        for part in self.mix:
            inner = part.model_dump(exclude_defaults=True)
            words.append(f"mix({' '.join(f'{key}={value}' for key, value in inner.items())})")
        return " ".join(words)


def share_out(total: int, weights: list[float]) -> list[int]:
    """Rounds shares to whole numbers that add up to `total`, by the largest remainder.

    Args:
        total: What is shared out.
        weights: Shares that add up to 1.
    """
    counts = [math.floor(total * weight) for weight in weights]
    # Rounded, so that no platform's last bit decides between equal remainders.
    remainders = [round(total * w - n, 9) for w, n in zip(weights, counts, strict=True)]
    by_remainder = sorted(range(len(weights)), key=lambda index: (-remainders[index], index))
    for index in by_remainder[: total - sum(counts)]:
        counts[index] += 1
    return counts


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
