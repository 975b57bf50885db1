"""What preflight knows of GPUs: the table in gpus.json, by any of a GPU's names.

Compute capabilities and memory, the nominal figure read as GiB, were entered without the data
sheets at hand. A driver leaves less, so what does not fit here fits nowhere.
"""

import difflib
import json
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

MAKERS = re.compile(r"nvidia|geforce|tesla|[^a-z0-9]")


@dataclass(frozen=True)
class Gpu:
    """A GPU model.

    Attributes:
        name: As recipes write it.
        capability: CUDA compute capability times ten: 89 for 8.9.
        memory_gib: Its nominal memory.
    """

    name: str
    capability: int
    memory_gib: int


def find_gpu(name: str) -> Gpu:
    """Returns the GPU of that name; case, spaces, dashes and the maker's name do not count.

    Raises:
        ValueError: No such GPU in the table; names the closest one.
    """
    by_key = _read_table()
    gpu = by_key.get(_key(name))
    if gpu is not None:
        return gpu
    close = difflib.get_close_matches(_key(name), by_key, n=1)
    hint = f"; did you mean {by_key[close[0]].name!r}?" if close else ""
    known = ", ".join(gpu.name for gpu in list_gpus())
    raise ValueError(f"unknown GPU {name!r}{hint} (known: {known})")


def list_gpus() -> list[Gpu]:
    """Returns every GPU of the table, in its order."""
    return list(dict.fromkeys(_read_table().values()))


@cache
def _read_table() -> dict[str, Gpu]:
    text = resources.files("llmopt.serving").joinpath("gpus.json").read_text(encoding="utf-8")
    by_key = {}
    for row in json.loads(text):
        capability = int(row["compute_capability"].replace(".", ""))
        gpu = Gpu(row["name"], capability, row["memory_gib"])
        for name in (gpu.name, *row["aliases"]):
            by_key[_key(name)] = gpu
    return by_key


def _key(name: str) -> str:
    return MAKERS.sub("", name.lower())
