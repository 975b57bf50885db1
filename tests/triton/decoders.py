"""A small decoder, exported with a key-value cache for tests of generation."""

from dataclasses import dataclass
from pathlib import Path

from llmopt.artifacts.onnx_description import OnnxDescription
from tests.export.exports import export
from tests.models import make_model


@dataclass(frozen=True)
class ExportedDecoder:
    """An export and the checkpoint that it was made from."""

    model: Path
    folder: Path
    description: OnnxDescription


def export_small_decoder(folder: Path) -> ExportedDecoder:
    """Makes a random Llama with the tiny model's tokenizer and exports it in float32."""
    model = make_model(folder / "model", initializer_range=0.2)
    exported = export(model, folder / "onnx", last_token_logits=True)
    return ExportedDecoder(model, folder / "onnx", exported.description)
