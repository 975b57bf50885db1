"""Whether weights and KV cache fit the GPUs' memory."""

from collections.abc import Iterator
from dataclasses import dataclass

from llmopt.checkpoint.model_config import ModelConfig
from llmopt.serving.rule import Fault
from llmopt.serving.served_weights import PLAIN_BYTES, ServedWeights, longest_context
from llmopt.serving.target import Target

GIB = 1 << 30
USED_SHARE = 0.92  # vllm/config/cache.py, gpu_memory_utilization
LARGER_TP = (2, 4, 8, 16)


@dataclass(frozen=True)
class MemoryNeed:
    """What one GPU must hold at least, activations aside.

    Attributes:
        weights_bytes: Its part of the weights.
        token_bytes: Keys and values of one token in all blocks.
        tokens: Tokens that must be held at once.
    """

    weights_bytes: int
    token_bytes: int
    tokens: int

    @property
    def total_bytes(self) -> int:
        """Weights and KV cache."""
        return self.weights_bytes + self.token_bytes * self.tokens


def measure_need(weights: ServedWeights, target: Target, tp: int) -> MemoryNeed:
    """Adds up what each of `tp` GPUs must hold, norms and biases left out."""
    config = weights.config
    vocabulary_bytes = PLAIN_BYTES * config.vocab_size * config.hidden_size
    held = sum(layer.num_bytes // weights.num_shards(layer, tp) for layer in weights.layers)
    kv_heads = max(config.num_key_value_heads // tp, 1)
    token_bytes = config.num_hidden_layers * 2 * kv_heads * config.head_dim * PLAIN_BYTES
    return MemoryNeed(held + vocabulary_bytes // tp, token_bytes, _count_tokens(config, target))


def memory(weights: ServedWeights, target: Target) -> Iterator[Fault]:
    """Weights and KV cache fit the GPUs' memory.

    The KV cache is that of max_model_len (else the model's own length) times concurrency, no more
    than a sliding window each. Activations are left out: what is refused here is refused for
    certain.

    For: vllm, device cuda with a named gpu

    Source: vllm/config/cache.py, gpu_memory_utilization (0.92); vllm/v1/core/kv_cache_utils.py:
    "To serve at least one request with the model's max seq len ... GiB KV cache is needed, which
    is larger than the available KV cache memory"

    Proof: source
    """
    gpu = target.known_gpu
    if gpu is None:
        return
    available = int(USED_SHARE * gpu.memory_gib * GIB)
    need = measure_need(weights, target, target.tp)
    if need.total_bytes > available:
        yield Fault(
            f"{need.weights_bytes / GIB:.1f} GiB of weights and "
            f"{need.token_bytes * need.tokens / GIB:.1f} GiB of KV cache for {need.tokens} tokens "
            f"({_describe_tokens(target)}) exceed the {available / GIB:.1f} GiB that vLLM by "
            f"default takes of the {gpu.memory_gib} GiB of {gpu.name}",
            " or ".join(_ways_out(weights, target, available)),
        )


def _count_tokens(config: ModelConfig, target: Target) -> int:
    length = target.max_model_len or longest_context(config)
    window = config.raw.get("sliding_window")
    if isinstance(window, int) and config.raw.get("use_sliding_window", True):
        length = min(length, window)
    # Without a length of its own, only what vLLM itself asks for: one request of full length.
    return length * (target.concurrency or 1 if target.max_model_len else 1)


def _describe_tokens(target: Target) -> str:
    if target.max_model_len is None:
        return "one request of the model's full length; max_model_len is not set"
    return f"max_model_len {target.max_model_len} x concurrency {target.concurrency or 1}"


def _ways_out(weights: ServedWeights, target: Target, available: int) -> Iterator[str]:
    heads = weights.config.num_attention_heads
    wider = (tp for tp in LARGER_TP if tp > target.tp and not heads % tp)
    fitting = [tp for tp in wider if measure_need(weights, target, tp).total_bytes <= available]
    if fitting:
        yield f"set tp: {fitting[0]}"
    need = measure_need(weights, target, target.tp)
    tokens = (available - need.weights_bytes) // need.token_bytes
    length = tokens // (target.concurrency or 1)
    if length > 0:
        yield f"set max_model_len: {length} or less, or a smaller concurrency"
    else:
        yield "store the weights in fewer bits"
    yield "name a gpu with more memory"
