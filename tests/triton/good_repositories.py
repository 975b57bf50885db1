"""Repositories without a mistake, small and written out, that mistakes are planted on.

`words` is an ensemble of two python models, `encoder` one of tokenizer, ONNX graph and
postprocessor, `engine` the same over a TensorRT engine, `story` a decoupled python model,
`llm` one of vLLM, `counter` one of shape generate, `counter_engine` that over an engine, `ranker`
an ensemble by llmopt's own writer. Each function writes one into an empty folder.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from llmopt.artifacts.onnx_description import OnnxDescription
from llmopt.artifacts.optimization_profile import AxisRange, OptimizationProfile
from llmopt.artifacts.tensor_spec import make_spec
from llmopt.artifacts.triton_description import (
    Backend,
    EngineFacts,
    ModelRole,
    RepositoryModel,
    TritonDescription,
)
from tests.triton.good_generate import write_counter, write_counter_engine
from tests.triton.good_ranker import write_ranker

SOURCES = Path(__file__).parent / "good_models"
VOCABULARY, HIDDEN = 16, 8
BUCKETS = (4, 8)


def write_words(folder: Path) -> None:
    """TEXT → reader → scorer → SCORES, of which labels name three; reader warms up."""
    _copy(folder, "words")
    (folder / "words" / "1").mkdir()
    (folder / "words" / "1" / ".keep").touch()
    text = "日本".encode()
    (folder / "reader" / "warmup").mkdir()
    (folder / "reader" / "warmup" / "text").write_bytes(len(text).to_bytes(4, "little") + text)


def write_story(folder: Path) -> None:
    """text_input → story → text_output, word by word."""
    _copy(folder, "story")


def write_encoder(folder: Path) -> None:
    """TEXT → tokenizer → engine (onnxruntime) → postprocessor → WORD, SCORE."""
    _copy(folder, "encoder")
    (folder / "encoder" / "1").mkdir()
    (folder / "encoder" / "1" / ".keep").touch()
    version = folder / "engine" / "1"
    version.mkdir()
    write_graph(version / "model.onnx")
    digest = hashlib.sha256((version / "model.onnx").read_bytes()).hexdigest()
    describe_encoder("onnxruntime").model_copy(update={"model_sha256": digest}).write(folder)


def write_engine(folder: Path) -> None:
    """The same, its graph built for TensorRT: a file that stands for one, and what is known."""
    write_encoder(folder)
    version = folder / "engine" / "1"
    for path in version.iterdir():
        path.unlink()
    plan = b"an engine, as far as its digest goes"
    (version / "model.plan").write_bytes(plan)
    config = folder / "engine" / "config.pbtxt"
    text = config.read_text(encoding="utf-8").replace('"onnxruntime"', '"tensorrt"')
    group = 'kind: KIND_GPU profile: [ "0", "1" ]'
    config.write_text(text.replace("kind: KIND_CPU", group), encoding="utf-8")
    facts = EngineFacts(
        backend="tensorrt",
        tensorrt_version="10.5.0",
        compute_capabilities=("8.0",),
        profiles=(_profile("short", 4, 4), _profile("long", 5, 8)),
        sha256=hashlib.sha256(plan).hexdigest(),
    )
    description = describe_encoder("tensorrt")
    description.model_copy(update={"engine": facts, "device": "cuda"}).write(folder)


def write_llm(folder: Path) -> None:
    """A checkpoint for vLLM, mounted at /models."""
    _copy(folder, "llm")
    checkpoint = folder / "llm" / "1" / "checkpoint"
    checkpoint.mkdir(parents=True)
    (checkpoint / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    (checkpoint / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    settings = {"model": "/models/llm/1/checkpoint", "gpu_memory_utilization": 0.9}
    (folder / "llm" / "1" / "model.json").write_text(json.dumps(settings), encoding="utf-8")


WRITERS: dict[str, Callable[[Path], None]] = {
    "words": write_words,
    "story": write_story,
    "encoder": write_encoder,
    "engine": write_engine,
    "llm": write_llm,
    "counter": write_counter,
    "counter_engine": write_counter_engine,
    "ranker": write_ranker,
}


def describe_encoder(backend: Backend) -> TritonDescription:
    """Writes what llmopt says of the encoder's repository."""
    models: tuple[tuple[str, ModelRole, Backend], ...] = (
        ("encoder", "ensemble", "ensemble"),
        ("tokenizer", "tokenizer", "python"),
        ("engine", "engine", backend),
        ("postprocessor", "postprocessor", "python"),
    )
    rows, tokens = {"batch": -1}, {"batch": -1, "sequence": -1}
    model = OnnxDescription(
        model_type="bert",
        task="fill_mask",
        weights="plain",
        dtype="float32",
        opset=17,
        kv_cache=False,
        last_token_logits=False,
        vocab_size=HIDDEN,
        max_position_embeddings=32,
        inputs=(
            make_spec("input_ids", "int64", **tokens),
            make_spec("attention_mask", "int64", **tokens),
        ),
        outputs=(make_spec("logits", "float32", **rows, vocab=HIDDEN),),
    )
    return TritonDescription(
        shape="ensemble",
        task="fill_mask",
        model_name="encoder",
        models=tuple(RepositoryModel(name=n, role=r, backend=b) for n, r, b in models),
        triton_release="24.10",
        device="cpu",
        max_batch_size=8,
        buckets=BUCKETS,
        max_queue_delay_us=2000,
        model=model,
        prompt="ab",
    )


def write_graph(path: Path, opset: int = 17) -> None:
    """Writes logits[batch, 8] = the sum of the rows of a table, its weights in a file beside it."""
    table = np.arange(VOCABULARY * HIDDEN, dtype=np.float32).reshape(VOCABULARY, HIDDEN) % 7
    axes = ["batch", "sequence"]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, axes)
        for name in ("input_ids", "attention_mask")
    ]
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", HIDDEN])
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask_1"]),
        helper.make_node("Mul", ["rows", "mask_1"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "middle"], ["logits"], keepdims=0),
    ]
    weights = [
        numpy_helper.from_array(table, "table"),
        numpy_helper.from_array(np.array([2], np.int64), "last"),
        numpy_helper.from_array(np.array([1], np.int64), "middle"),
    ]
    graph = helper.make_graph(nodes, "encoder", inputs, [output], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(
        model, str(path), save_as_external_data=True, location="model.onnx.data", size_threshold=64
    )


def _profile(name: str, shortest: int, longest: int) -> OptimizationProfile:
    axes = {
        "batch": AxisRange(min=1, opt=4, max=8),
        "sequence": AxisRange(min=shortest, opt=longest, max=longest),
    }
    return OptimizationProfile(name=name, axes=axes)


def _copy(folder: Path, name: str) -> None:
    """Copies a repository's text files."""
    for source in sorted((SOURCES / name).rglob("*")):
        if source.is_file() and "__pycache__" not in source.parts:
            target = folder / source.relative_to(SOURCES / name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
