"""Small BERTs with Japanese tokenizers, exported for tests."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForSequenceClassification,
    BertModel,
)

from llmopt.artifacts.onnx_description import OnnxDescription, OnnxWeights
from llmopt.artifacts.onnx_session import open_session
from llmopt.artifacts.progress import SilentProgress
from llmopt.artifacts.tensor_spec import TensorDtype
from llmopt.checkpoint.encoder_config import EncoderTask, read_encoder_config
from llmopt.export.decoder_export import ExportOptions
from llmopt.export.encoder_export import (
    export_encoder,
    load_encoder,
    quantize_weights_dynamically,
)
from llmopt.export.encoder_parity import EncoderParity, check_encoder
from llmopt.export.encoder_session import OnnxEncoder

ARCHITECTURES = {
    "BertModel": BertModel,
    "BertForMaskedLM": BertForMaskedLM,
    "BertForPreTraining": BertForPreTraining,
    "BertForSequenceClassification": BertForSequenceClassification,
}
NUM_LAYERS, HIDDEN, MAX_TOKENS = 2, 32, 64
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = (
    "前",
    "身",
    "##頃",
    "袖",
    "衿",
    "を",
    "縫う",
    "##い",
    "検品",
    "する",
    "。",
    "ボタン",
    "寸法",
)
VOCABULARY = (*SPECIAL_TOKENS, *WORDS, *(chr(0x3042 + index) for index in range(80)))


def make_bert(
    folder: Path,
    architecture: str = "BertForMaskedLM",
    *,
    dtype: torch.dtype = torch.float32,
    subwords: str = "wordpiece",
    seed: int = 7,
    **config: Any,
) -> Path:
    """Writes a small random BERT in the shape of bert-base-japanese; returns its folder."""
    settings = {
        "hidden_size": HIDDEN,
        "intermediate_size": 64,
        "num_hidden_layers": NUM_LAYERS,
        "num_attention_heads": 4,
        "vocab_size": len(VOCABULARY),
        "max_position_embeddings": MAX_TOKENS,
    }
    torch.manual_seed(seed)
    model = ARCHITECTURES[architecture](BertConfig(**{**settings, **config})).to(dtype)
    # Default initialisation leaves biases zero, norms one and attention flat: stir them.
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "LayerNorm" in name:
            parameter.data += 0.1 * torch.randn_like(parameter)
        else:
            parameter.data *= 5
    model.save_pretrained(folder)
    write_tokenizer(folder, subwords)
    return folder


def write_tokenizer(folder: Path, subwords: str) -> None:
    """Writes the tokenizer's files as bert-base-japanese has them."""
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    settings = {
        "tokenizer_class": "BertJapaneseTokenizer",
        "do_lower_case": False,
        "word_tokenizer_type": "mecab",
        "subword_tokenizer_type": subwords,
        "mecab_kwargs": {"mecab_dic": "unidic_lite"},
        "model_max_length": MAX_TOKENS,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def export_bert(
    model: Path,
    folder: Path,
    task: EncoderTask = "fill_mask",
    *,
    weights: OnnxWeights = "plain",
    dtype: TensorDtype = "float32",
    opset: int = 21,
    masked_positions: bool = False,
) -> OnnxDescription:
    """Exports an encoder into a new folder; for int8_dynamic the float32 one is beside it."""
    folder.mkdir()
    options = ExportOptions(
        weights,
        dtype,
        opset,
        kv_cache=False,
        last_token_logits=False,
        masked_positions=masked_positions,
    )
    config = read_encoder_config(model)
    if weights != "int8_dynamic":
        return export_encoder(config, task, options, folder, SilentProgress())
    exact = folder.with_name(f"{folder.name}-float32")
    exact.mkdir()
    description = export_encoder(config, task, options, exact, SilentProgress())
    quantize_weights_dynamically(exact, folder, description)
    return description


def open_encoder(folder: Path, description: OnnxDescription) -> OnnxEncoder:
    """Loads an export on one thread."""
    return OnnxEncoder(open_session(folder, description, threads=1), description)


def measure_parity(model: Path, folder: Path, description: OnnxDescription) -> EncoderParity:
    """Holds an export against transformers, as the step does."""
    config = read_encoder_config(model)
    task: EncoderTask = "embed" if description.task == "embed" else "fill_mask"
    reference = load_encoder(config, task)
    return check_encoder(open_encoder(folder, description), description, config, reference)
