"""Random quantised layers, for tests of the formats."""

import torch

from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.checkpoint.packed_weight import PackedWeight, monotonic_g_idx

SCHEMES = [
    QuantScheme(bits, group_size, sym, desc_act)
    for bits in (2, 3, 4, 8)
    for group_size in (-1, 32, 64)
    for sym in (True, False)
    for desc_act in (True, False)
]


def make_packed_weight(
    scheme: QuantScheme, out_features: int = 32, in_features: int = 96
) -> PackedWeight:
    """Returns a layer of random integers, scales that bfloat16 can hold, and any zero points."""
    generator = torch.Generator().manual_seed(0)
    num_groups = scheme.num_groups(in_features)
    q_IO = torch.randint(0, scheme.max_q + 1, (in_features, out_features), generator=generator)
    zeros_GO = torch.randint(1, scheme.max_q + 1, (num_groups, out_features), generator=generator)
    if scheme.sym:
        zeros_GO.fill_(scheme.midpoint)
    scales_GO = torch.rand(num_groups, out_features, generator=generator) + 0.01
    g_idx_I = monotonic_g_idx(in_features, scheme.group_size)
    if scheme.desc_act:
        g_idx_I = g_idx_I[torch.randperm(in_features, generator=generator)]
    return PackedWeight(
        q_IO=q_IO.to(torch.uint8),
        scales_GO=scales_GO.bfloat16().half(),
        zeros_GO=zeros_GO.to(torch.uint8),
        g_idx_I=g_idx_I,
        scheme=scheme,
    )


def assert_same_weight(found: PackedWeight, expected: PackedWeight) -> None:
    """Compares integers, scales, zero points and groups exactly."""
    assert found.scheme == expected.scheme
    assert torch.equal(found.q_IO, expected.q_IO)
    assert torch.equal(found.scales_GO.float(), expected.scales_GO.float())
    assert torch.equal(found.zeros_GO, expected.zeros_GO)
    assert torch.equal(found.g_idx_I, expected.g_idx_I)
