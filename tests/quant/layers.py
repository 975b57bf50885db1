"""Random layers with activations that are correlated, as a trained model's are."""

import torch
from torch import Tensor

from llmopt.artifacts.quant_scheme import QuantScheme, ScaleSearch
from llmopt.quant.gptq import GptqOptions


def make_layer(
    rows: int, columns: int, *, seed: int = 0, dead: tuple[int, ...] = (), scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Returns weights [rows, columns] and X^T X / tokens [columns, columns], both float64.

    Columns in `dead` see only zeros; `scale` multiplies the activations.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    mix = normal(columns, columns) / columns**0.5 + torch.eye(columns, dtype=torch.float64)
    X = normal(2 * columns, columns) @ mix * normal(columns).exp() * scale
    X[:, list(dead)] = 0
    return normal(rows, columns), X.T @ X / len(X)


def make_options(
    bits: int = 4,
    group_size: int = 32,
    *,
    sym: bool = True,
    order: str = "natural",
    static_groups: bool = False,
    damp_percent: float = 0.01,
    max_damp_percent: float = 0.5,
    scale_dtype: torch.dtype = torch.bfloat16,
    scale_search: ScaleSearch = "minmax",
) -> GptqOptions:
    """Returns the options of a solve; `order` is natural, desc_act or act_group_aware."""
    return GptqOptions(
        scheme=QuantScheme(bits, group_size, sym, order == "desc_act", static_groups),
        act_group_aware=order == "act_group_aware",
        damp_percent=damp_percent,
        max_damp_percent=max_damp_percent,
        scale_dtype=scale_dtype,
        scale_search=scale_search,
    )


def make_indefinite(columns: int, smallest: float) -> Tensor:
    """Returns a symmetric matrix of mean diagonal 1 with one eigenvalue `smallest`.

    Damping must reach -smallest / mean diagonal to make it positive definite.
    """
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(
        torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    )
    eigenvalues = torch.ones(columns, dtype=torch.float64)
    eigenvalues[0] = smallest
    eigenvalues[1:] = (columns - smallest) / (columns - 1)
    H = basis * eigenvalues @ basis.T
    return (H + H.T) / 2
