"""Compiles the Triton kernel down to a GPU's machine code, without one; prints its PTX."""

import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from llmopt.quant.triton_block_solve import ROWS, round_rows

POINTERS = ("W", "C", "E", "steps", "scale", "lowest", "highest", "U")
NUMBERS = (
    "num_columns", "num_rows", "row_stride", "scale_stride", "lowest_stride", "highest_stride",
    "U_stride",
)  # fmt: skip

if __name__ == "__main__":
    source = ASTSource(
        fn=round_rows,
        signature={
            **dict.fromkeys(POINTERS, "*fp32"),
            **dict.fromkeys(NUMBERS, "i32"),
            **dict.fromkeys(("ROUNDER", "COLUMNS", "ROWS"), "constexpr"),
        },
        constexprs={"ROUNDER": 1.5 * 2**23, "COLUMNS": 128, "ROWS": ROWS},
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", int(sys.argv[1]), 32))
    assert compiled.asm["cubin"]
    print(compiled.asm["ptx"])  # noqa: T201
