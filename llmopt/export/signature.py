"""Names, dtypes and axes of what exported models read and return, as optimum names them."""

from collections.abc import Sequence
from dataclasses import dataclass

from llmopt.artifacts.tensor_spec import (
    BATCH,
    DYNAMIC,
    PAST,
    SEQUENCE,
    TOTAL,
    TensorDtype,
    TensorSpec,
    make_spec,
)
from llmopt.checkpoint.encoder_config import EncoderConfig, EncoderTask
from llmopt.checkpoint.model_config import ModelConfig

KEY_VALUE = ("key", "value")
MASKED_POSITIONS = "masked_positions"


@dataclass(frozen=True)
class Signature:
    """What a model takes and gives, in order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def cache_inputs(self) -> tuple[TensorSpec, ...]:
        """Returns the inputs that hold the key-value cache."""
        return tuple(spec for spec in self.inputs if spec.name.startswith("past_key_values."))


def describe_decoder(
    config: ModelConfig, dtype: TensorDtype, *, kv_cache: bool, last_token_logits: bool
) -> Signature:
    """Describes a decoder's export.

    With a cache, `attention_mask` covers past and present tokens, and `position_ids` count a
    row's own tokens, so that rows may be padded on the left. Without one, positions are counted
    from the mask inside the graph.
    """
    num_kept = 1 if last_token_logits else DYNAMIC
    kept = "last" if last_token_logits else SEQUENCE
    logits = make_spec(
        "logits", dtype, **{BATCH: DYNAMIC, kept: num_kept, "vocab": config.vocab_size}
    )
    ids = _per_token("input_ids", SEQUENCE)
    if not kv_cache:
        return Signature((ids, _per_token("attention_mask", SEQUENCE)), (logits,))
    first = (ids, _per_token("attention_mask", TOTAL), _per_token("position_ids", SEQUENCE))
    return Signature(
        (*first, *_describe_cache(config, dtype, "past_key_values", PAST)),
        (logits, *_describe_cache(config, dtype, "present", TOTAL)),
    )


def describe_encoder(
    config: EncoderConfig, dtype: TensorDtype, task: EncoderTask, *, masked_positions: bool = False
) -> Signature:
    """Describes an encoder's export: logits over the vocabulary, or the last hidden state.

    With `masked_positions` a row's logits are those of the position that this input names.
    """
    names = ("input_ids", "attention_mask", "token_type_ids")
    inputs = tuple(_per_token(name, SEQUENCE) for name in names)
    name, last = ("logits", "vocab") if task == "fill_mask" else ("last_hidden_state", "hidden")
    width = config.vocab_size if task == "fill_mask" else config.hidden_size
    if masked_positions:
        positions = make_spec(MASKED_POSITIONS, "int64", **{BATCH: DYNAMIC})
        one_each = make_spec(name, dtype, **{BATCH: DYNAMIC, last: width})
        return Signature((*inputs, positions), (one_each,))
    output = make_spec(name, dtype, **{BATCH: DYNAMIC, SEQUENCE: DYNAMIC, last: width})
    return Signature(inputs, (output,))


def _per_token(name: str, axis: str) -> TensorSpec:
    return make_spec(name, "int64", **{BATCH: DYNAMIC, axis: DYNAMIC})


def _describe_cache(
    config: ModelConfig, dtype: TensorDtype, prefix: str, length_axis: str
) -> Sequence[TensorSpec]:
    axes = {
        BATCH: DYNAMIC,
        "kv_heads": config.num_key_value_heads,
        length_axis: DYNAMIC,
        "head_dim": config.head_dim,
    }
    return [
        make_spec(f"{prefix}.{block}.{part}", dtype, **axes)
        for block in range(config.num_hidden_layers)
        for part in KEY_VALUE
    ]
