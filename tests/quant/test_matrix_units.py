from collections.abc import Iterator
from pathlib import Path

import pytest

from llmopt.quant import matrix_units
from llmopt.quant.matrix_units import has_matrix_units, is_widened

WITHOUT = "processor\t: 0\nmodel name\t: amx_bf16 look-alike\nflags\t\t: fpu avx512f avx512_bf16\n"
WITH = "processor\t: 0\nflags\t\t: fpu avx512_bf16 amx_bf16 amx_tile\n"


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    has_matrix_units.cache_clear()
    yield
    has_matrix_units.cache_clear()


@pytest.mark.parametrize(
    ("text", "dtype", "expected"),
    [
        (WITHOUT, "bfloat16", True),
        (WITH, "bfloat16", False),
        (WITH, "float16", True),
        (WITHOUT, "float32", False),
        (None, "bfloat16", True),
    ],
)
def test_what_is_computed_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, dtype: str, expected: bool
) -> None:
    monkeypatch.setattr(matrix_units, "CPU_INFO", tmp_path / "cpuinfo")
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text, encoding="utf-8")
    assert is_widened(dtype) is expected
