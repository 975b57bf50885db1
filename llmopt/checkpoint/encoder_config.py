"""An encoder's config.json, read without transformers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llmopt.checkpoint.experts_config import positive_figure
from llmopt.checkpoint.model_config import read_raw_config
from llmopt.errors import InputError

EncoderTask = Literal["fill_mask", "embed"]
SUPPORTED_ENCODERS = ("bert",)


@dataclass(frozen=True)
class EncoderConfig:
    """The figures of a BERT encoder.

    Attributes:
        task: What the checkpoint's head is for: `fill_mask` where it is a masked language model.
    """

    folder: Path
    hidden_size: int
    num_hidden_layers: int
    vocab_size: int
    max_position_embeddings: int
    task: EncoderTask


def is_encoder(folder: Path) -> bool:
    """Tells whether a folder holds a model of a supported encoder family.

    Raises:
        InputError: It holds no readable config.json.
    """
    return read_raw_config(folder).get("model_type") in SUPPORTED_ENCODERS


def read_encoder_config(folder: Path) -> EncoderConfig:
    """Reads config.json of a supported encoder family.

    Raises:
        InputError: No such folder or file, no valid JSON, an architecture that is not
            supported, or a field that is missing or impossible.
    """
    raw = read_raw_config(folder)
    if raw.get("model_type") not in SUPPORTED_ENCODERS:
        raise InputError(
            f"{folder / 'config.json'}: model_type {raw.get('model_type')!r} is no encoder; "
            f"supported: {', '.join(SUPPORTED_ENCODERS)}"
        )
    named = raw.get("architectures")
    architecture = str(named[0]) if isinstance(named, list) and named else ""
    return EncoderConfig(
        folder=folder,
        hidden_size=positive_figure(folder, raw, "hidden_size"),
        num_hidden_layers=positive_figure(folder, raw, "num_hidden_layers"),
        vocab_size=positive_figure(folder, raw, "vocab_size"),
        max_position_embeddings=positive_figure(
            folder, raw, "max_position_embeddings", default=512
        ),
        task="embed" if architecture == "BertModel" else "fill_mask",
    )
