"""Small decoders, plain and quantised, exported for tests."""

from pathlib import Path

import torch

from llmopt.artifacts.onnx_description import OnnxWeights
from llmopt.artifacts.onnx_session import open_session
from llmopt.artifacts.progress import SilentProgress
from llmopt.artifacts.tensor_spec import TensorDtype
from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.checkpoint.streamed_model import StreamedModel
from llmopt.export.decoder_export import ExportedModel, ExportOptions, export_decoder
from llmopt.export.parity import Parity, check_decoder
from tests.quant.layers import make_options
from tests.quant.pipeline import make_small_model, quantize

# What a GPTQ checkpoint may be like: (bits, group size, symmetric, order of the columns).
SCHEMES = {
    "sym": (4, 32, True, "natural"),
    "asym": (4, 32, False, "natural"),
    "act_order": (4, 32, True, "desc_act"),
    "asym_act_order": (4, 32, False, "desc_act"),
    "by_channel": (4, -1, True, "natural"),
    "asym_by_channel": (4, -1, False, "natural"),
    "8_bits": (8, 32, True, "natural"),
    "asym_8_bits": (8, 32, False, "desc_act"),
    "3_bits": (3, 32, False, "natural"),
    "2_bits": (2, 32, True, "desc_act"),
}


def make_gptq_model(folder: Path, scheme: str = "sym", family: str = "llama") -> Path:
    """Writes a small model and its GPTQ checkpoint; returns the checkpoint's folder."""
    bits, group_size, sym, order = SCHEMES[scheme]
    model = make_small_model(folder / "model", family)
    options = make_options(bits, group_size, sym=sym, order=order, scale_dtype=torch.float32)
    return quantize(model, folder / "gptq", options=options).folder


def export(
    model: Path,
    folder: Path,
    *,
    weights: OnnxWeights = "plain",
    dtype: TensorDtype = "float32",
    opset: int = 21,
    kv_cache: bool = True,
    last_token_logits: bool = False,
) -> ExportedModel:
    """Exports a decoder into a new folder."""
    folder.mkdir()
    options = ExportOptions(weights, dtype, opset, kv_cache, last_token_logits)
    return export_decoder(Checkpoint.open(model), options, folder, SilentProgress())


def measure_parity(model: Path, folder: Path, exported: ExportedModel) -> Parity:
    """Holds an export against PyTorch, as the step does."""
    streamed = StreamedModel(Checkpoint.open(model), torch.device("cpu"), torch.float32)
    session = open_session(folder, exported.description, threads=1)
    return check_decoder(session, exported.description, streamed)
