"""Makes compressed-tensors checkpoints with llm-compressor. Runs inside .venvs/llmcompressor.

    python quantize_with_llmcompressor.py MODELS_DIR OUT_DIR [NAME ...]

Never imports llmopt. `tests/peers/make_checkpoints.py` calls it and says what the folders hold. The
expected `logits` are the weights' alone; where a scheme rounds activations too (W8A8, FP8),
`rounded_logits` are compressed-tensors' own with that.
"""

import os
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="")

from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from peer_compressed_tensors import compute_rounded_logits, dequantize_layers
from peer_reference import load_ids, load_rows, make_cases, save_expected
from transformers import AutoTokenizer

SEQ_LEN = 64
KEPT_PLAIN = ["lm_head"]


def integer_weights(num_bits: int, **settings: Any) -> dict[str, Any]:
    """Describes integer weights; symmetric where not said otherwise."""
    grouping = {"strategy": "group"} if "group_size" in settings else {"strategy": "channel"}
    return {"num_bits": num_bits, "type": "int", "symmetric": True, **grouping, **settings}


def one_group(**weights: Any) -> dict[str, Any]:
    """Describes one config group of all linear layers."""
    return {"config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}}


def two_groups() -> dict[str, Any]:
    """Describes a mixed model: 8 bits per channel in some layers, 4 in groups in the others."""
    narrow = {
        "targets": ["re:.*(q|k|o)_proj", "re:.*mlp\\.(gate|up)_proj"],
        "weights": integer_weights(4, group_size=64, symmetric=False),
    }
    wide = {"targets": ["re:.*v_proj", "re:.*down_proj"], "weights": integer_weights(8)}
    return {"config_groups": {"narrow": narrow, "wide": wide}}


def mixed_formats() -> dict[str, Any]:
    """Describes a model whose groups are of different formats: packed integers and FP8."""
    attention = {"targets": ["re:.*self_attn.*"], "weights": integer_weights(4, group_size=32)}
    floats = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel"}
    tokens = {**floats, "strategy": "token", "dynamic": True}
    mlp = {"targets": ["re:.*mlp.*"], "weights": floats, "input_activations": tokens}
    return {"config_groups": {"attention": attention, "mlp": mlp}}


# name -> (model, modifier, settings). actorder "group" is gone from llm-compressor 0.14, and g_idx
# from compressed-tensors with it.
CASES: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "llmcompressor-w4a16": ("tied", GPTQModifier, {"scheme": "W4A16", "targets": ["Linear"]}),
    "llmcompressor-w4a16-asym": (
        "tied", GPTQModifier, {"scheme": "W4A16_ASYM", "targets": ["Linear"]},
    ),
    "llmcompressor-w4a16-unordered": (
        "tied", GPTQModifier, {"actorder": None, **one_group(**integer_weights(4, group_size=32))},
    ),
    "llmcompressor-w3a16": (
        "tied", GPTQModifier, one_group(**integer_weights(3, group_size=64)),
    ),
    "llmcompressor-w8a8": ("short", GPTQModifier, {"scheme": "W8A8", "targets": ["Linear"]}),
    "llmcompressor-fp8-dynamic": (
        "short", QuantizationModifier, {"scheme": "FP8_DYNAMIC", "targets": ["Linear"]},
    ),
    "llmcompressor-fp8-static": (
        "short", QuantizationModifier, {"scheme": "FP8", "targets": ["Linear"]},
    ),
    "llmcompressor-fp8-block": (
        "short", QuantizationModifier, {"scheme": "FP8_BLOCK", "targets": ["Linear"]},
    ),
    "llmcompressor-two-groups": (
        "tied", GPTQModifier,
        {**two_groups(), "ignore": [*KEPT_PLAIN, "re:.*layers\\.1\\.self_attn\\.o_proj"]},
    ),
    "llmcompressor-mixed-formats": ("short", QuantizationModifier, mixed_formats()),
    "llmcompressor-lm-head": (
        "untied", QuantizationModifier,
        {"ignore": [], **one_group(**integer_weights(4, group_size=128))},
    ),
}  # fmt: skip


def make_case(models: Path, name: str, output: Path) -> None:
    """Quantises one model and saves what compressed-tensors then reads."""
    model_name, modifier, settings = CASES[name]
    oneshot(
        model=str(models / model_name),
        tokenizer=AutoTokenizer.from_pretrained(models / model_name),
        dataset=Dataset.from_list(load_rows(models)),
        recipe=modifier(**{"ignore": KEPT_PLAIN, **settings}),
        max_seq_length=SEQ_LEN,
        num_calibration_samples=16,
        shuffle_calibration_samples=False,
        output_dir=str(output),
    )
    weights = dequantize_layers(output)
    rounded = compute_rounded_logits(models / model_name, weights, output, load_ids(models))
    save_expected(models, model_name, weights, output, rounded)


if __name__ == "__main__":
    make_cases(CASES, make_case)
