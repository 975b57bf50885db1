"""Rows of JSON, CSV and Parquet files, and of a data set's folder as the hub keeps it.

JSON and CSV are read by the standard library: `datasets` reads half a surrogate pair as nothing,
dates as timestamps, and shifts the columns of a CSV row that holds a comma too many.
"""

import csv
import errno
import json
import tempfile
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

from llmopt.errors import InputError

NO_ROWS = ("corresponds to no data", "BatchSize must be greater than 0, got 0")
SILENT = 60  # above logging.CRITICAL: what the library logs is raised as well


def decode_json(text: str, origin: str, remedy: str | None = None) -> Any:
    """Decodes one JSON value.

    Raises:
        InputError: Not JSON, or with half a surrogate pair, which no tokenizer can take.
    """
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InputError(f"{origin}: half of a surrogate pair, which is no character") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{origin}: not valid JSON: {error}", remedy=remedy) from None
    return value


def parse_json(text: str, path: Path) -> list[Any]:
    """Reads a list of objects.

    Raises:
        InputError: Not JSON, or another kind of value.
    """
    rows = decode_json(text, str(path), "a file of one object per line is named .jsonl")
    if not isinstance(rows, list):
        raise InputError(
            f"{path}: a .json data set is a list of objects, not {type(rows).__name__}"
        )
    return rows


def parse_csv(text: str, path: Path) -> list[dict[str, str]]:
    """Reads rows under a header; every value is a text.

    Raises:
        InputError: Malformed, or a row with more or fewer values than the header.
    """
    reader = csv.reader(StringIO(text, newline=""), strict=True)
    limit = csv.field_size_limit(len(text) + 1)  # a document may be longer than the default
    try:
        header = next(reader, [])
        repeated = sorted({name for name in header if header.count(name) > 1})
        if repeated:
            raise InputError(f"{path}: its header names {', '.join(repeated)} more than once")
        rows = []
        for values in reader:
            if values and len(values) != len(header):
                raise InputError(
                    f"{path}:{reader.line_num}: {len(values)} values under a header of "
                    f"{len(header)}: {', '.join(header)}",
                    remedy='put a value that holds commas or line breaks into "quotes"',
                )
            if values:
                rows.append(dict(zip(header, values, strict=True)))
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: not valid CSV: {error}") from None
    finally:
        csv.field_size_limit(limit)
    return rows


def read_parquet(path: Path) -> list[Any]:
    """Reads a Parquet file's rows.

    Raises:
        InputError: It can't be read.
    """

    def load(datasets: ModuleType, folder: Path) -> Any:
        # A plain name, for in the library's eyes `[` and `*` make a pattern.
        link = folder / "data.parquet"
        link.symlink_to(path.resolve())
        return datasets.load_dataset(
            "parquet", data_files=str(link), split="train", cache_dir=str(folder / "cache")
        )

    return _load_rows(load, f"data set file {path}")


def read_snapshot(folder: Path, split: str, label: str) -> list[Any]:
    """Reads a split's rows from a data set's folder; no script in it is run.

    Args:
        folder: A local folder, laid out as on the hub.
        split: The split's name.
        label: The data set's name, for messages.

    Raises:
        InputError: No such split, or its files can't be read.
    """

    def load(datasets: ModuleType, temporary: Path) -> Any:
        link = temporary / "data"
        link.symlink_to(folder.resolve(), target_is_directory=True)
        return datasets.load_dataset(str(link), split=split, cache_dir=str(temporary / "cache"))

    return _load_rows(load, f"data set {label}, split {split!r}")


def _load_rows(load: Callable[[ModuleType, Path], Any], what: str) -> list[Any]:
    """Loads rows with the library's cache in a temporary folder."""
    # Imported here: it takes longer to load than most recipes to validate.
    import datasets  # noqa: PLC0415

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(SILENT)
    with tempfile.TemporaryDirectory(prefix="llmopt-") as temporary:
        try:
            rows: list[Any] = load(datasets, Path(temporary)).to_list()
        except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
            cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
            if isinstance(cause, OSError) and cause.errno == errno.ENOSPC:
                raise cause from None  # no fault of the data
            if any(words in str(cause) for words in NO_ROWS):
                return []
            reason = str(cause).replace(f"{temporary}/", "")
            raise InputError(f"{what} can't be read: {reason}") from None
    return rows
