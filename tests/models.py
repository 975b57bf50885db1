"""Small random models of every supported family, and ways to damage them."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

REPOSITORY = Path(__file__).parent.parent
TINY_MODEL = REPOSITORY / "examples" / "apparel-tiny"
CONFIGS = {
    "llama": LlamaConfig,
    "mistral": MistralConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
    "mixtral": MixtralConfig,
    "qwen3_moe": Qwen3MoeConfig,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
VOCAB_SIZE = 6144


def make_model(
    folder: Path,
    family: str = "llama",
    *,
    dtype: torch.dtype = torch.bfloat16,
    max_shard_size: str = "5GB",
    seed: int = 0,
    **config: Any,
) -> Path:
    """Writes a random model with the tiny model's tokenizer; returns its folder."""
    settings = {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "vocab_size": VOCAB_SIZE,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if family in ("mixtral", "qwen3_moe"):
        settings |= EXPERTS
    if family == "qwen3_moe":
        settings["moe_intermediate_size"] = settings["intermediate_size"] // 4
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(CONFIGS[family](**{**settings, **config}), dtype=dtype)
    # Default initialisation leaves biases zero, norms one and logits flat: stir them.
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name:
            parameter.data += 0.1 * torch.randn_like(parameter)
        elif "layers" in name:
            parameter.data *= 3
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (TINY_MODEL / name).exists():
            shutil.copyfile(TINY_MODEL / name, folder / name)
    return folder


def edit_json(path: Path, **changes: Any) -> None:
    """Changes keys of a JSON file; None removes one."""
    data = json.loads(path.read_text(encoding="utf-8"))
    for key, value in changes.items():
        if value is None:
            data.pop(key, None)
        else:
            data[key] = value
    path.write_text(json.dumps(data), encoding="utf-8")


def write_documents(path: Path, num_documents: int = 40) -> Path:
    """Writes a small calibration file of varied Japanese sentences."""
    parts = [
        "前身頃",
        "後身頃",
        "袖",
        "衿",
        "見返し",
        "ポケット",
        "裏地",
        "芯地",
        "ボタン",
        "ファスナー",
    ]
    works = [
        "を本縫いで縫う",
        "にステッチをかける",
        "の寸法を測る",
        "を検品する",
        "を裁断する",
        "に芯を貼る",
    ]
    rows = []
    for index in range(num_documents):
        words = [parts[(index * 3 + k) % 10] + works[(index + k * k) % 6] for k in range(8)]
        text = (
            f"工程{index}: "
            + "。".join(words)
            + f"。寸法は{30 + index}cm、許容差は±{index % 5}mmとする。"
        )
        rows.append(json.dumps({"text": text, "category": f"c{index % 3}"}, ensure_ascii=False))
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path
