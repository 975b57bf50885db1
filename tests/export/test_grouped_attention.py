"""Attention of exported decoders: as PyTorch's, without copies of the cache, finite in float16."""

from pathlib import Path

import onnx
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from llmopt.export.grouped_attention import register_grouped_attention
from tests.export.exports import export, measure_parity
from tests.quant.pipeline import make_small_model

pytestmark = pytest.mark.usefixtures("one_thread")

HIDDEN = torch.finfo(torch.float16).min / 2


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (8, 2), (4, 1)])
def test_any_number_of_query_heads_shares_a_head_of_keys(
    tmp_path: Path, heads: int, kv_heads: int
) -> None:
    model = make_small_model(
        tmp_path / "model", num_attention_heads=heads, num_key_value_heads=kv_heads
    )
    exported = export(model, tmp_path / "onnx")
    parity = measure_parity(model, tmp_path / "onnx", exported)
    assert parity.relative_error < 1e-5
    assert parity.top1_agreement == 1


def test_the_cache_is_read_and_not_repeated(tmp_path: Path) -> None:
    model = make_small_model(tmp_path / "model", num_attention_heads=4, num_key_value_heads=2)
    export(model, tmp_path / "onnx")
    graph = onnx.load(tmp_path / "onnx" / "model.onnx", load_external_data=False).graph
    for part, allowed in (("key", {"Transpose", "Shape"}), ("value", {"MatMul", "Shape"})):
        readers = [n.op_type for n in graph.node if f"present.0.{part}" in n.input]
        assert readers
        assert set(readers) <= allowed


@pytest.mark.parametrize("magnitude", [1, 300], ids=["usual scores", "scores of thousands"])
def test_a_row_that_sees_nothing_is_finite_and_the_others_are_pytorchs(magnitude: float) -> None:
    name = register_grouped_attention()
    torch.manual_seed(0)
    query_BHTD, key_BKLD, value_BKLD = (
        torch.randn(2, heads, 5, 8, dtype=torch.float16) for heads in (4, 2, 2)
    )
    query_BHTD = query_BHTD * magnitude
    seen_B1TL = torch.ones(2, 1, 5, 5, dtype=torch.bool).tril()
    seen_B1TL[1, :, :, :3] = False  # the first three tokens of the second row are padding
    added = torch.where(seen_B1TL, 0, HIDDEN).to(torch.float16)
    attend = AttentionInterface()[name]
    ours_BTHD, _ = attend(None, query_BHTD, key_BKLD, value_BKLD, added, scaling=8**-0.5)
    theirs_BHTD = scaled_dot_product_attention(
        query_BHTD.float(),
        key_BKLD.float().repeat_interleave(2, 1),
        value_BKLD.float().repeat_interleave(2, 1),
        attn_mask=seen_B1TL,
    )
    assert ours_BTHD.isfinite().all()
    seen = seen_B1TL[:, 0].any(-1)
    torch.testing.assert_close(
        ours_BTHD.float()[seen], theirs_BHTD.transpose(1, 2)[seen], atol=5e-3, rtol=5e-3
    )


def test_the_mask_leaves_room_below_it() -> None:
    mask = AttentionMaskInterface()[register_grouped_attention()](
        batch_size=1, q_length=3, kv_length=3, dtype=torch.float16
    )
    assert mask.dtype == torch.float16
    torch.testing.assert_close(
        mask[0, 0].float(),
        torch.tensor([[0, HIDDEN, HIDDEN], [0, 0, HIDDEN], [0, 0, 0]]),
    )
    assert (mask * 1.9).isfinite().all()
