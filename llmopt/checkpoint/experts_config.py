"""The mixture-of-experts figures of config.json, and how experts are named on disk; no torch.

Hub checkpoints hold each expert's matrices on their own, as 2-D tensors: Mixtral under
`block_sparse_moe.experts.E.w1|w3|w2`, Qwen3-MoE under `mlp.experts.E.gate_proj|up_proj|down_proj`.
transformers 5 fuses them in memory (`mlp.experts.gate_up_proj`) and writes them apart again.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmopt.errors import InputError

EXPERT_NUMBER = re.compile(r"\.experts\.(\d+)\.")


@dataclass(frozen=True)
class ExpertNames:
    """What a family calls the parts of a mixture inside a decoder block."""

    module: str
    gate: str
    up: str
    down: str

    @property
    def router(self) -> str:
        """The linear layer that chooses experts; it is never rounded."""
        return f"{self.module}.gate"

    @property
    def fused(self) -> str:
        """The name under which servers load all experts of a block as one."""
        return f"{self.module}.experts"

    def gate_up(self, expert: int) -> tuple[str, str]:
        """Returns the two layers of an expert that read the mixture's input."""
        prefix = f"{self.fused}.{expert}."
        return prefix + self.gate, prefix + self.up

    def down_of(self, expert: int) -> str:
        """Returns the layer of an expert that writes the mixture's output."""
        return f"{self.fused}.{expert}.{self.down}"


EXPERT_NAMES = {
    "mixtral": ExpertNames("block_sparse_moe", gate="w1", up="w3", down="w2"),
    "qwen3_moe": ExpertNames("mlp", gate="gate_proj", up="up_proj", down="down_proj"),
}
# transformers' defaults (MixtralConfig, Qwen3MoeConfig) for keys that a config.json leaves out.
DEFAULTS = {
    "mixtral": {"num_experts": 8, "num_experts_per_tok": 2},
    "qwen3_moe": {"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768},
}
# The hub's Qwen3-MoE files say num_experts; Mixtral's, and what transformers 5 saves, the other.
COUNT_KEYS = ("num_local_experts", "num_experts")


@dataclass(frozen=True)
class ExpertsConfig:
    """The mixture of a model.

    Attributes:
        names: The family's names.
        num_experts: Experts in a block.
        num_chosen: Experts that a token goes through.
        inner_size: An expert's intermediate size.
        dense_blocks: Blocks that have a plain MLP instead.
    """

    names: ExpertNames
    num_experts: int
    num_chosen: int
    inner_size: int
    dense_blocks: frozenset[int]

    def router_shape(self, hidden_size: int) -> tuple[int, int]:
        """Returns the shape of the router's weight, (E, D)."""
        return self.num_experts, hidden_size


def read_experts_config(folder: Path, raw: Mapping[str, Any]) -> ExpertsConfig | None:
    """Reads the mixture's figures; None for a family without experts.

    Raises:
        InputError: A figure is impossible.
    """
    family = raw.get("model_type")
    if family not in EXPERT_NAMES:
        return None
    defaults = DEFAULTS[family]
    count_key = next((key for key in COUNT_KEYS if raw.get(key) is not None), COUNT_KEYS[0])
    num_experts = positive_figure(folder, raw, count_key, defaults["num_experts"])
    chosen_key = "num_experts_per_tok"
    num_chosen = positive_figure(folder, raw, chosen_key, defaults[chosen_key])
    if num_chosen > num_experts:
        raise InputError(
            f"{folder / 'config.json'}: {chosen_key} is {num_chosen}, but there are "
            f"{num_experts} experts"
        )
    inner_key = "moe_intermediate_size" if family == "qwen3_moe" else "intermediate_size"
    return ExpertsConfig(
        names=EXPERT_NAMES[family],
        num_experts=num_experts,
        num_chosen=num_chosen,
        inner_size=positive_figure(folder, raw, inner_key, defaults.get(inner_key)),
        dense_blocks=_dense_blocks(folder, raw) if family == "qwen3_moe" else frozenset(),
    )


def _dense_blocks(folder: Path, raw: Mapping[str, Any]) -> frozenset[int]:
    """Applies Qwen3-MoE's rule (transformers, Qwen3MoeDecoderLayer)."""
    named = raw.get("mlp_only_layers") or []
    if not isinstance(named, list) or not all(type(block) is int for block in named):
        raise InputError(
            f"{folder / 'config.json'}: mlp_only_layers is {named!r}, not a list of block numbers"
        )
    step = positive_figure(folder, raw, "decoder_sparse_step", 1)
    blocks = range(positive_figure(folder, raw, "num_hidden_layers"))
    return frozenset(block for block in blocks if block in named or (block + 1) % step)


def positive_figure(
    folder: Path, raw: Mapping[str, Any], key: str, default: int | None = None
) -> int:
    """Returns a positive integer of config.json; one that is missing or null is the default.

    Raises:
        InputError: It is something else.
    """
    value = raw.get(key)
    if value is None:
        value = default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{folder / 'config.json'}: {key} is {value!r}, not a positive integer")
    return value


def find_mixture(name: str) -> str | None:
    """Returns the name of the experts that a layer belongs to, None for a layer of its own."""
    match = EXPERT_NUMBER.search(name)
    return None if match is None else name[: match.start(1) - 1]


def mask_expert(name: str) -> str:
    """Returns a layer's name with its expert's number as a star, as messages for all use it."""
    return EXPERT_NUMBER.sub(".experts.*.", name)
