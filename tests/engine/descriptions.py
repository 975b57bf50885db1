"""Descriptions of exported models, without exporting them."""

from llmopt.artifacts.onnx_description import OnnxDescription
from llmopt.artifacts.tensor_spec import make_spec

KV_HEADS, HEAD_DIM, VOCAB = 2, 16, 320
LIMIT = 256  # positions


def describe(*, kv_cache: bool = True, vocab: int = VOCAB, limit: int = LIMIT) -> OnnxDescription:
    """Describes a decoder of one block."""
    cache = {"batch": -1, "kv_heads": KV_HEADS, "past_sequence": -1, "head_dim": HEAD_DIM}
    ids = make_spec("input_ids", "int64", batch=-1, sequence=-1)
    inputs = [ids, make_spec("attention_mask", "int64", batch=-1, sequence=-1)]
    if kv_cache:
        inputs = [
            ids,
            make_spec("attention_mask", "int64", batch=-1, total_sequence=-1),
            make_spec("position_ids", "int64", batch=-1, sequence=-1),
            make_spec("past_key_values.0.key", "float16", **cache),
            make_spec("past_key_values.0.value", "float16", **cache),
        ]
    return OnnxDescription(
        model_type="llama",
        task="generate",
        weights="plain",
        dtype="float16",
        opset=21,
        kv_cache=kv_cache,
        last_token_logits=False,
        vocab_size=vocab,
        max_position_embeddings=limit,
        inputs=tuple(inputs),
        outputs=(make_spec("logits", "float16", batch=-1, sequence=-1, vocab=vocab),),
    )
