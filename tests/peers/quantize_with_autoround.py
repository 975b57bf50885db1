"""Makes checkpoints with AutoRound, in three formats. Runs inside .venvs/autoround.

    python quantize_with_autoround.py MODELS_DIR OUT_DIR [NAME ...]

Never imports llmopt. `tests/peers/make_checkpoints.py` calls it and says what the folders hold.
"""

import os
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="")

import peer_compressed_tensors
import torch
from auto_round import AutoRound
from peer_reference import load_rows, make_cases, save_expected
from transformers import AutoModelForCausalLM, AutoRoundConfig, AutoTokenizer

SEQ_LEN = 64
NUM_ROWS = 16
OVERRIDES = {
    "model.layers.0.self_attn.q_proj": {"bits": 8},
    "model.layers.1.mlp.down_proj": {"bits": 16},
    "gate_proj": {"bits": 2, "group_size": 32},
}
# name -> (model, format, settings of AutoRound). Asymmetric ones are not among them: AutoRound has
# no CPU code that reads them (its own format packs them as AWQ does, which llmopt refuses).
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "autoround-gptq": ("tied", "auto_gptq", {"bits": 4, "group_size": 128}),
    "autoround-gptq-overrides": (
        "tied", "auto_gptq", {"bits": 4, "group_size": 64, "layer_config": OVERRIDES},
    ),
    "autoround-own": ("untied", "auto_round", {"bits": 4, "group_size": 128}),
    "autoround-own-w3": ("tied", "auto_round", {"bits": 3, "group_size": 64}),
    "autoround-own-overrides": (
        "tied", "auto_round", {"bits": 4, "group_size": 64, "layer_config": OVERRIDES},
    ),
    "autoround-llmcompressor": ("tied", "llm_compressor", {"bits": 4, "group_size": 128}),
}  # fmt: skip


def dequantize_layers(folder: Path) -> dict[str, torch.Tensor]:
    """Returns every packed layer's weight [O, I] in float32: its answer to the unit matrix."""
    if (folder / "config.json").read_text(encoding="utf-8").count('"compressed-tensors"'):
        return peer_compressed_tensors.dequantize_layers(folder)
    settings = AutoRoundConfig(backend="torch")
    model = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=settings, dtype=torch.float16
    )
    weights = {}
    for name, module in model.named_modules():
        if hasattr(module, "qweight"):
            module.scales = module.scales.float()  # else it multiplies, and rounds, in float16
            with torch.no_grad():
                weights[name] = module(torch.eye(module.infeatures)).T.clone()
    return weights


def make_case(models: Path, name: str, output: Path) -> None:
    """Quantises one model and saves what AutoRound then reads."""
    model_name, output_format, settings = CASES[name]
    rows = [{key: torch.tensor([ids]) for key, ids in row.items()} for row in load_rows(models)]
    rounding = AutoRound(
        str(models / model_name),
        AutoTokenizer.from_pretrained(models / model_name),
        dataset=rows,
        iters=8,
        seqlen=SEQ_LEN,
        nsamples=NUM_ROWS,
        batch_size=NUM_ROWS,
        device_map="cpu",
        **settings,
    )
    export = output.with_suffix(".export")  # AutoRound appends a folder name of its own
    rounding.quantize_and_save(output_dir=str(export), format=output_format)
    (made,) = (path.parent for path in export.glob("**/config.json"))
    made.rename(output)
    save_expected(models, model_name, dequantize_layers(output), output)


if __name__ == "__main__":
    make_cases(CASES, make_case)
