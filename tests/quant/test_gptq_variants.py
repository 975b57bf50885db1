"""Every variant of GPTQ through the real pipeline: written, read back, killed and resumed."""

from pathlib import Path

import pytest

from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.checkpoint.stored_quantization import QuantFormat
from llmopt.checkpoint.stored_weight import read_packed_weight
from llmopt.quant.gptq import GptqOptions
from tests.quant.layers import make_options
from tests.quant.pipeline import make_small_model, quantize
from tests.quant.test_quantize_checkpoint import (
    InterruptedRunError,
    InterruptingProgress,
    read_files,
)

pytestmark = pytest.mark.usefixtures("one_thread")

VARIANTS = {
    "the default": make_options(4, 32, order="act_group_aware", static_groups=True),
    "static desc_act": make_options(4, 32, order="desc_act", static_groups=True),
    "static mse": make_options(
        8, -1, order="act_group_aware", static_groups=True, scale_search="mse"
    ),
    "2 bits mse": make_options(2, 32, sym=False, order="act_group_aware", scale_search="mse"),
    "3 bits desc_act mse": make_options(3, 32, order="desc_act", scale_search="mse"),
}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
def test_resumes_to_the_same_bytes(tmp_path: Path, options: GptqOptions) -> None:
    model = make_small_model(tmp_path / "model")
    whole = quantize(model, tmp_path / "whole", options=options)
    progress = InterruptingProgress(advances=1)
    with pytest.raises(InterruptedRunError):
        quantize(model, tmp_path / "cut", options=options, progress=progress)
    resumed = quantize(model, tmp_path / "cut", options=options)
    assert read_files(resumed.folder) == read_files(whole.folder)
    assert resumed.journal.errors == whole.journal.errors


@pytest.mark.parametrize("quant_format", ["gptq", "compressed-tensors"])
def test_static_act_order_is_read_back_as_it_was_solved(
    tmp_path: Path, quant_format: QuantFormat
) -> None:
    options = VARIANTS["static desc_act"]
    model = make_small_model(tmp_path / "model")
    quantized = quantize(model, tmp_path / "out", options=options, quant_format=quant_format)
    checkpoint = Checkpoint.open(quantized.folder)
    W_RI, _, solution = quantized.solver.seen[1]
    read = read_packed_weight(checkpoint, "model.layers.0.self_attn.o_proj")
    assert read.q_IO.shape == W_RI.T.shape
    assert read.q_IO.equal(solution.weight.q_IO)
    assert read.scales_GO.float().equal(solution.weight.scales_GO)
    assert read.g_idx_I.tolist() == [column // 32 for column in range(len(read.q_IO))]
