"""An ensemble without a mistake as llmopt writes it, over a graph that counts on by one."""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from llmopt.artifacts.onnx_description import OnnxDescription
from llmopt.artifacts.tensor_spec import make_spec
from llmopt.triton.ensemble_repository import EnsemblePlan, write_ensemble
from llmopt.triton.releases import find_release
from llmopt.triton.repository import ServingOptions
from tests.triton.good_generate import WORDS, write_tokenizer


def write_ranker(folder: Path) -> None:
    """text_input → the two likeliest next words: after "one two" comes "three"."""
    source = folder / "source"
    write_tokenizer(source)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": WORDS[7]}
    (source / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    _write_graph(source / "model.onnx")
    plan = EnsemblePlan(
        task="score",
        source=source,
        model=_describe(),
        engine=None,
        tokenizer=source,
        max_batch_size=4,
        max_queue_delay_us=1000,
        buckets=(4, 8),
        threads=1,
        num_tokens=2,
    )
    options = ServingOptions("ranker", 1, "latest", "cpu")
    write_ensemble(folder, plan, options, find_release("24.10")).write(folder)
    for path in source.iterdir():
        path.unlink()
    source.rmdir()


def _describe() -> OnnxDescription:
    tokens = {"batch": -1, "sequence": -1}
    return OnnxDescription(
        model_type="llama",
        task="generate",
        weights="plain",
        dtype="float32",
        opset=17,
        kv_cache=False,
        last_token_logits=True,
        vocab_size=len(WORDS),
        max_position_embeddings=32,
        inputs=(
            make_spec("input_ids", "int64", **tokens),
            make_spec("attention_mask", "int64", **tokens),
        ),
        outputs=(make_spec("logits", "float32", batch=-1, last=1, vocab=len(WORDS)),),
    )


def _write_graph(path: Path) -> None:
    """Writes logits[batch, 1, 8]: 4 for the token after the last one, 2 for the next but one."""
    eye = np.eye(len(WORDS), dtype=np.float32)
    table = 4 * np.roll(eye, 1, axis=1) + 2 * np.roll(eye, 2, axis=1)
    nodes = [
        helper.make_node("Gather", ["input_ids", "end"], ["last"], axis=1),
        helper.make_node("Gather", ["table", "last"], ["rows"]),
        helper.make_node("Gather", ["attention_mask", "end"], ["is_token"], axis=1),
        helper.make_node("Cast", ["is_token"], ["kept"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["kept", "width"], ["kept_wide"]),
        helper.make_node("Mul", ["rows", "kept_wide"], ["logits"]),
    ]
    axes = ["batch", "sequence"]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, axes)
        for name in ("input_ids", "attention_mask")
    ]
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1, len(WORDS)])
    weights = [
        numpy_helper.from_array(table, "table"),
        numpy_helper.from_array(np.array([-1], np.int64), "end"),
        numpy_helper.from_array(np.array([2], np.int64), "width"),
    ]
    graph = helper.make_graph(nodes, "ranker", inputs, [output], weights)
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), str(path))
