"""bitsandbytes' kernels; imports the library, an extra, so import this only where it is needed."""

import logging

# It says at import that kernels for other work (a fused 4-bit product) can't be fetched.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

from bitsandbytes.functional import (  # noqa: E402
    QuantState,
    dequantize_4bit,
    dequantize_blockwise,
    quantize_4bit,
    quantize_blockwise,
)

__all__ = [
    "QuantState",
    "dequantize_4bit",
    "dequantize_blockwise",
    "quantize_4bit",
    "quantize_blockwise",
]
