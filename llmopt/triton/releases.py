"""What the server's container holds in each release: the table in releases.json.

Sources, and how `onnx_opset` was measured: docs/triton.md.
"""

import difflib
import json
from dataclasses import dataclass
from functools import cache
from importlib import resources

# The python backend's stub up to 24.11 breaks with numpy 2; later notes do not say.
NUMPY_REQUIREMENT = "numpy>=1.26,<2"
# The last release for a Python, and the newest ONNX operators that it loads; others have no last.
LAST_ONNXRUNTIME = {"3.10": ("1.23.2", 23)}


@dataclass(frozen=True)
class TritonRelease:
    """One release of NVIDIA's container tritonserver, which NGC holds.

    Attributes:
        release: Its number, such as "24.10".
        python: Of the python backend: an execution environment must be of this one.
        onnxruntime: Of the onnxruntime backend.
        onnx_opset: The newest ONNX operators that that one loads.
        tensorrt: What the version of the tensorrt backend begins with; None: not known.
        vllm: In the container with the suffix -vllm-python-py3.
    """

    release: str
    python: str
    onnxruntime: str
    onnx_opset: int
    tensorrt: str | None
    vllm: str

    @property
    def image(self) -> str:
        """The container that serves python, onnxruntime and tensorrt models."""
        return f"tritonserver:{self.release}-py3"

    @property
    def vllm_image(self) -> str:
        """The container that serves vLLM's models."""
        return f"tritonserver:{self.release}-vllm-python-py3"

    @property
    def environment_opset(self) -> int | None:
        """The newest ONNX operators that any onnxruntime for its Python loads; None: no limit."""
        last = LAST_ONNXRUNTIME.get(self.python)
        return None if last is None else last[1]


def find_release(number: str) -> TritonRelease:
    """Returns a release by its number.

    Raises:
        ValueError: The table has none of that number; names the closest one.
    """
    table = _read_table()
    if number in table:
        return table[number]
    close = difflib.get_close_matches(number, table, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise ValueError(f"unknown release {number!r}{hint} (known: {', '.join(table)})")


def list_releases() -> tuple[TritonRelease, ...]:
    """Returns every release of the table, the oldest first."""
    return tuple(_read_table().values())


@cache
def _read_table() -> dict[str, TritonRelease]:
    text = resources.files("llmopt.triton").joinpath("releases.json").read_text(encoding="utf-8")
    return {row["release"]: TritonRelease(**row) for row in json.loads(text)}
