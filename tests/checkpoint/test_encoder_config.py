"""An encoder's config.json: what is read of it, what its task is, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from llmopt.checkpoint.encoder_config import is_encoder, read_encoder_config
from llmopt.errors import IncompatibleError, InputError

EMBEDDINGS = "embeddings.word_embeddings.weight"


def write_encoder(folder: Path, head: bool = True, **changes: Any) -> Path:
    """Writes a BERT's config.json and the two tensors that are looked at."""
    config = {
        "model_type": "bert",
        "architectures": ["BertForMaskedLM"],
        "hidden_size": 4,
        "num_hidden_layers": 2,
        "vocab_size": 6,
        "max_position_embeddings": 16,
        **changes,
    }
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tensors = {f"bert.{EMBEDDINGS}": torch.zeros(6, 4)}
    if head:
        tensors["cls.predictions.transform.dense.weight"] = torch.zeros(4, 4)
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_reads_figures_and_defaults(tmp_path: Path) -> None:
    config = read_encoder_config(write_encoder(tmp_path, max_position_embeddings=None))
    assert (config.hidden_size, config.num_hidden_layers, config.vocab_size) == (4, 2, 6)
    assert (config.max_position_embeddings, config.type_vocab_size) == (512, 2)
    assert is_encoder(tmp_path)


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("BertForMaskedLM", "fill_mask"),
        ("BertForPreTraining", "fill_mask"),
        ("BertModel", "embed"),
    ],
)
def test_the_architecture_says_the_task(tmp_path: Path, architecture: str, task: str) -> None:
    config = read_encoder_config(write_encoder(tmp_path, architectures=[architecture]))
    assert config.choose_task(None) == task
    assert config.choose_task("embed") == "embed"


@pytest.mark.parametrize("architectures", [["BertForSequenceClassification"], [], None])
def test_another_head_wants_a_task(tmp_path: Path, architectures: list[str] | None) -> None:
    config = read_encoder_config(write_encoder(tmp_path, head=False, architectures=architectures))
    named = "BertForSequenceClassification" if architectures else "no architecture named"
    with pytest.raises(IncompatibleError, match=f"{named}, whose head is not exported") as caught:
        config.choose_task(None)
    assert "task: embed" in str(caught.value)
    assert config.choose_task("embed") == "embed"


@pytest.mark.parametrize("architecture", ["BertModel", "BertForMaskedLM"])
def test_fill_mask_needs_the_head(tmp_path: Path, architecture: str) -> None:
    config = read_encoder_config(write_encoder(tmp_path, head=False, architectures=[architecture]))
    with pytest.raises(IncompatibleError, match=r"no masked-LM head .*task: fill_mask") as caught:
        config.choose_task("fill_mask")
    assert "task: embed" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "distilbert"}, "model_type 'distilbert' is no encoder; supported: bert"),
        ({"model_type": None}, "model_type None is no encoder"),
        ({"is_decoder": True}, "is_decoder is true; only BERT encoders"),
        ({"position_embedding_type": "relative_key"}, "'relative_key'; only 'absolute'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "the weights are quantised"),
        ({"hidden_size": 0}, "hidden_size is 0, not a positive integer"),
        ({"vocab_size": "6"}, "vocab_size is '6', not a positive integer"),
        ({"vocab_size": 7}, r"word embeddings are \[6, 4\], .* = \[7, 4\]"),
    ],
)
def test_refuses(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_encoder_config(write_encoder(tmp_path, **changes))


def test_refuses_pickles_with_the_way_out(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model\.bin is a pickle") as caught:
        read_encoder_config(folder)
    assert "AutoModelForMaskedLM for a BERT" in str(caught.value)


def test_refuses_weights_of_something_else(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path)
    save_file({"weight": torch.zeros(2)}, folder / "model.safetensors")
    with pytest.raises(InputError, match=rf"no tensor is called \*{EMBEDDINGS}"):
        read_encoder_config(folder)


@pytest.mark.parametrize("model_type", ["llama", "roberta", None])
def test_others_are_no_encoders(tmp_path: Path, model_type: str | None) -> None:
    assert not is_encoder(write_encoder(tmp_path, model_type=model_type))
