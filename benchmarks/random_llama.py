"""Writes a random bf16 Llama of any size shard by shard, never holding more than one shard."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from llmopt.checkpoint.tensor_files import write_tensors

TINY_MODEL = Path(__file__).parent.parent / "examples" / "apparel-tiny"


@dataclass(frozen=True)
class LlamaShape:
    """The sizes of a Llama.

    Attributes:
        hidden: Hidden size.
        intermediate: Rows of gate and up.
        heads: Query heads.
        kv_heads: Key and value heads.
        vocab: Rows of the embeddings.
        blocks: Decoder blocks.
        ties_embeddings: Whether the output projection is the embeddings.
    """

    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocab: int
    blocks: int
    ties_embeddings: bool = True

    @property
    def head_dim(self) -> int:
        """Size of a head."""
        return self.hidden // self.heads

    def block_tensors(self) -> dict[str, tuple[int, ...]]:
        """Returns the shapes of a decoder block's tensors."""
        key_value = self.kv_heads * self.head_dim
        return {
            "input_layernorm": (self.hidden,),
            "post_attention_layernorm": (self.hidden,),
            "self_attn.q_proj": (self.hidden, self.hidden),
            "self_attn.k_proj": (key_value, self.hidden),
            "self_attn.v_proj": (key_value, self.hidden),
            "self_attn.o_proj": (self.hidden, self.hidden),
            "mlp.gate_proj": (self.intermediate, self.hidden),
            "mlp.up_proj": (self.intermediate, self.hidden),
            "mlp.down_proj": (self.hidden, self.intermediate),
        }

    def outer_tensors(self) -> dict[str, tuple[int, ...]]:
        """Returns the shapes of what stands outside the blocks, by full name."""
        table = (self.vocab, self.hidden)
        outer: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": table,
            "model.norm.weight": (self.hidden,),
        }
        return outer if self.ties_embeddings else {**outer, "lm_head.weight": table}


def make_model(
    folder: Path, shape: LlamaShape, blocks_per_shard: int = 8, device: str = "cpu"
) -> int:
    """Writes the model, with the tiny model's tokenizer; returns the bytes of its weights.

    Args:
        folder: Where to.
        shape: Its sizes.
        blocks_per_shard: How many blocks a file, and memory, holds.
        device: Where numbers are drawn.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    weight_map, total = {}, 0
    starts = range(0, shape.blocks, blocks_per_shard)
    shards = [range(a, min(a + blocks_per_shard, shape.blocks)) for a in starts]
    for number, blocks in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        shapes = {
            f"model.layers.{block}.{part}.weight": size
            for block in blocks
            for part, size in shape.block_tensors().items()
        }
        if number == 1:
            shapes |= shape.outer_tensors()
        tensors = {name: make_tensor(size, device) for name, size in shapes.items()}
        write_tensors(folder / name, tensors)
        weight_map |= dict.fromkeys(tensors, name)
        total += sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(describe_model(shape), indent=1))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(TINY_MODEL / name, folder / name)
    return total


def make_tensor(shape: tuple[int, ...], device: str) -> Tensor:
    """Draws a weight as an untrained model has it: norms one, matrices of deviation 0.02."""
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    return (torch.randn(shape, device=device) * 0.02).to(torch.bfloat16).cpu()


def describe_model(shape: LlamaShape) -> dict[str, object]:
    """Returns config.json."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.blocks,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocab,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": shape.ties_embeddings,
        "dtype": "bfloat16",
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
