"""Asymmetric calibration: a layer aims at the output it had before anything was rounded.

Li et al., "GPTAQ: Efficient Finetuning-Free Quantization for Asymmetric Calibration",
arXiv 2504.02692. With X what a layer reads in the quantised model and X~ what it would read in
the original, the error ||W X~ - Q X||^2 is, but for a constant, ||(W' - Q) X||^2 with

    W' = W + strength * W C (H + damping)^-1,   C = (X~ - X) X^T / tokens,   H = X X^T / tokens

so plain GPTQ on W' minimises it. Unlike the paper's column-wise update, which lets only columns
not yet rounded make up for the difference, this moves all columns (docs/adr/0011).

Shapes: B = batch, T = tokens, I = in_features, R = rows (out_features of all stacked layers).
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from llmopt.quant.factorization import copy_with_living_diagonal, factorize
from llmopt.quant.hessian import take_real
from llmopt.quant.precision import bf16_matmul


class CrossMoment:
    """Accumulates (X~ - X)^T X over tokens, in float32."""

    def __init__(self, in_features: int, device: torch.device) -> None:
        self._sum_II = torch.zeros(in_features, in_features, device=device)
        self._num_tokens = 0

    def add(
        self, original_BTI: Tensor, quantized_BTI: Tensor, lengths_B: Tensor | None = None
    ) -> None:
        """Adds a batch of what the layer reads in the original and in the quantised model.

        With `lengths_B` only the first so many tokens of each row count.
        """
        X_NI = take_real(quantized_BTI, lengths_B).float()
        change_NI = take_real(original_BTI, lengths_B).float() - X_NI
        self._num_tokens += len(X_NI)
        if quantized_BTI.dtype == torch.bfloat16:
            with bf16_matmul(X_NI.device):
                self._sum_II.addmm_(change_NI.T, X_NI)
        else:
            self._sum_II.addmm_(change_NI.T, X_NI)

    def finish(self) -> Tensor:
        """Returns the mean over tokens, [I, I]; the accumulator is used up."""
        self._sum_II /= max(self._num_tokens, 1)
        return self._sum_II


@dataclass(frozen=True)
class AsymmetricOptions:
    """How far targets are shifted.

    Attributes:
        strength: 1 aims at the original's output, 0 at that of the original weights.
        damp_percent: Fraction of the Hessian's mean diagonal added to it for the shift.
        max_damp_percent: How far that may be raised when H is not positive definite.
    """

    strength: float
    damp_percent: float
    max_damp_percent: float


def shift_targets(W_RI: Tensor, H_II: Tensor, C_II: Tensor, options: AsymmetricOptions) -> Tensor:
    """Returns the weights that GPTQ is to round so that outputs come near the original's.

    Args:
        W_RI: The original weights [R, I], any floating dtype. Not modified.
        H_II: Hessian X^T X / tokens of the quantised model's input.
        C_II: (X~ - X)^T X / tokens.
        options: How far, and with what damping; GPTQ raises its own alike on the same H.

    Returns:
        [R, I], in H's dtype. Weights of inputs that are always zero stay as they are.

    Raises:
        NumericalError: H is not finite, or not positive definite even at `max_damp_percent`.
    """
    factor = factorize(
        partial(copy_with_living_diagonal, H_II), options.damp_percent, options.max_damp_percent
    )
    change_IR = (W_RI.to(H_II.dtype) @ C_II).T
    change_IR = torch.linalg.solve_triangular(
        factor.U_T.T, change_IR, upper=True, unitriangular=True
    )
    change_IR = torch.linalg.solve_triangular(
        factor.U_T, change_IR / factor.D_I[:, None], upper=False, unitriangular=True
    )
    return torch.add(W_RI.to(H_II.dtype), change_IR.T, alpha=options.strength)
