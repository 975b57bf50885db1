"""The Hessian of a linear layer's squared output error, gathered batch by batch.

Shapes: B = batch, T = tokens, I = in_features, N = tokens that count.
"""

import torch
from torch import Tensor

from llmopt.errors import NumericalError
from llmopt.quant.factorization import is_finite
from llmopt.quant.precision import bf16_matmul

STRIPE_COLUMNS = 256


class Hessian:
    """Accumulates X^T X over tokens, in float32, upper stripes only.

    bf16 activations are multiplied on bf16 units with float32 accumulation, which is exact for
    them; others take the full-precision path.
    """

    def __init__(self, in_features: int, device: torch.device) -> None:
        self._sum_II = torch.zeros(in_features, in_features, device=device)
        self._num_tokens = 0

    def add(self, X_BTI: Tensor, lengths_B: Tensor | None = None) -> None:
        """Adds a batch; with `lengths_B` only the first so many tokens of each row count."""
        X_NI = take_real(X_BTI, lengths_B)
        self._num_tokens += len(X_NI)
        if X_BTI.dtype == torch.bfloat16:
            with bf16_matmul():
                self._add_stripes(X_NI.float())
        else:
            self._add_stripes(X_NI.float())

    def finish(self) -> Tensor:
        """Returns the symmetric mean over tokens, [I, I]; the accumulator is used up.

        Raises:
            NumericalError: It holds NaN or infinity.
        """
        H_II = self._sum_II
        for start in range(0, len(H_II), STRIPE_COLUMNS):
            stop = start + STRIPE_COLUMNS
            H_II[stop:, start:stop] = H_II[start:stop, stop:].T
        H_II /= max(self._num_tokens, 1)
        if not is_finite(H_II):
            raise NumericalError(
                "the calibration activations hold NaN or infinity",
                remedy="if the checkpoint is float16 it may overflow there: use --device cpu, or "
                "convert it to bfloat16",
            )
        return H_II

    def _add_stripes(self, X_NI: Tensor) -> None:
        for start in range(0, X_NI.shape[1], STRIPE_COLUMNS):
            stripe = self._sum_II[start : start + STRIPE_COLUMNS, start:]
            stripe.addmm_(X_NI[:, start : start + STRIPE_COLUMNS].T, X_NI[:, start:])


def take_real(X_BTI: Tensor, lengths_B: Tensor | None) -> Tensor:
    """Returns the tokens that count, [N, I]: the first so many of each row, or all."""
    if lengths_B is None:
        return X_BTI.flatten(0, -2)
    positions_1T = torch.arange(X_BTI.shape[1], device=X_BTI.device)[None]
    return X_BTI[positions_1T < lengths_B[:, None].to(X_BTI.device)]
