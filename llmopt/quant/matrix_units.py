"""Whether this machine's CPU multiplies 16-bit floats faster than 32-bit ones; no torch."""

from functools import cache
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
MATRIX_FLAG = "amx_bf16"  # AVX512-BF16 alone is slower than float32 (docs/adr/0016)


@cache
def has_matrix_units() -> bool:
    """Tells whether the CPU has tiles for bf16 (Intel AMX); False where that can't be read."""
    try:
        text = CPU_INFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return any(
        MATRIX_FLAG in line.split() for line in text.splitlines() if line.startswith("flags")
    )


def is_widened(dtype: str) -> bool:
    """Tells whether a checkpoint of this dtype is computed in float32 on this CPU."""
    return dtype == "float16" or (dtype == "bfloat16" and not has_matrix_units())


def kept_dtype(checkpoint_dtype: str, compute_dtype: str) -> str:
    """Returns what activations are kept in between stages, by torch's names.

    bf16 where that is the model's, however it is computed: the served model would pass that on.
    Otherwise what is computed in: float16 would overflow where float32 does not.
    """
    return checkpoint_dtype if checkpoint_dtype == "bfloat16" else compute_dtype
