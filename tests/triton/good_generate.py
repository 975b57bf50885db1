"""A repository of shape generate without a mistake, over a decoder that counts."""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers

from llmopt.artifacts.digest import digest_file
from llmopt.artifacts.onnx_description import OnnxDescription
from llmopt.artifacts.optimization_profile import AxisRange, OptimizationProfile
from llmopt.artifacts.tensor_spec import make_spec
from llmopt.artifacts.triton_description import EngineFacts, RepositoryModel, TritonDescription
from llmopt.engine import cuda_driver
from llmopt.triton.generate_model import (
    GENERATE_INPUTS,
    GENERATE_OUTPUTS,
    GENERATE_REQUIREMENTS,
    GenerateSettings,
    write_generate_model,
)
from llmopt.triton.model_config import make_config, write_config

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven")
CUDA_DRIVER = Path(cuda_driver.__file__)
HEADS, HEAD_SIZE, POSITIONS = 1, 4, 32
CACHE = tuple(
    make_spec(
        f"{prefix}.0.{part}", "float32", batch=-1, kv_heads=HEADS, **{length: -1},
        head_dim=HEAD_SIZE,
    )
    for prefix, length in (("past_key_values", "past_sequence"), ("present", "total_sequence"))
    for part in ("key", "value")
)  # fmt: skip


def write_counter(folder: Path) -> None:
    """text_input → counter → text_output: after "one two" comes "three", then "four"."""
    version = _write_model(folder, describe_decoder(), None)
    write_graph(version / "model.onnx")
    describe(describe_decoder(), version / "model.onnx").write(folder)


def write_counter_engine(folder: Path) -> None:
    """The same over an engine of TensorRT-RTX: a file that stands for one, and what is known."""
    profiles = (_profile("prefill", 2, (1, 16), (0, 16)), _profile("decode", 4, (1, 1), (1, 23)))
    version = _write_model(folder, describe_decoder(), profiles)
    (version / "model.engine").write_bytes(b"an engine, as far as its digest goes")
    facts = EngineFacts(
        backend="tensorrt_rtx",
        tensorrt_version="1.7.0",
        compute_capabilities=("8.9",),
        profiles=profiles,
        sha256=digest_file(version / "model.engine"),
    )
    described = describe(describe_decoder(), version / "model.engine")
    described.model_copy(update={"engine": facts, "device": "cuda"}).write(folder)


def _write_model(
    folder: Path, model: OnnxDescription, profiles: tuple[OptimizationProfile, ...] | None
) -> Path:
    """Writes all but the weights and triton.json; returns the version folder."""
    runner = "onnxruntime" if profiles is None else "tensorrt_rtx"
    settings = GenerateSettings(
        model=model,
        model_file="model.onnx" if profiles is None else "model.engine",
        decoder=runner,  # type: ignore[arg-type]
        profiles=profiles or (),
        max_running=4,
        max_waiting=8,
        default_max_tokens=3,
        threads=1,
    )
    version = folder / "counter" / "1"
    version.mkdir(parents=True)
    tokenizer = folder / "tokenizer"
    write_tokenizer(tokenizer)
    write_generate_model(version, settings, tokenizer, None if profiles is None else CUDA_DRIVER)
    for path in tokenizer.iterdir():
        path.unlink()
    tokenizer.rmdir()
    config = make_config("counter", "python", 0, GENERATE_INPUTS, GENERATE_OUTPUTS)
    for tensor in config.input:
        tensor.optional = True
    config.model_transaction_policy.decoupled = True
    write_config(folder / "counter", config)
    requirements = ("numpy>=1.26,<2", runner, *GENERATE_REQUIREMENTS)
    (folder / "requirements.txt").write_text("\n".join(requirements) + "\n", encoding="utf-8")
    return version


def _profile(
    name: str, rows: int, new: tuple[int, int], past: tuple[int, int]
) -> OptimizationProfile:
    ranges = {"batch": (1, rows), "sequence": new, "past_sequence": past}
    axes = {axis: AxisRange(min=low, opt=high, max=high) for axis, (low, high) in ranges.items()}
    return OptimizationProfile(name=name, axes=axes)


def describe_decoder() -> OnnxDescription:
    """Describes a decoder of eight words whose cache is one layer's."""
    return OnnxDescription(
        model_type="llama",
        task="generate",
        weights="plain",
        dtype="float32",
        opset=17,
        kv_cache=True,
        last_token_logits=True,
        vocab_size=len(WORDS),
        max_position_embeddings=POSITIONS,
        inputs=(
            make_spec("input_ids", "int64", batch=-1, sequence=-1),
            make_spec("attention_mask", "int64", batch=-1, total_sequence=-1),
            *CACHE[:2],
        ),
        outputs=(make_spec("logits", "float32", batch=-1, last=1, vocab=len(WORDS)), *CACHE[2:]),
    )


def describe(model: OnnxDescription, graph: Path) -> TritonDescription:
    """Writes what llmopt says of the repository."""
    return TritonDescription(
        shape="generate",
        task="generate",
        model_name="counter",
        models=(RepositoryModel(name="counter", role="generate", backend="python"),),
        triton_release="24.10",
        device="cpu",
        max_batch_size=4,
        model=model,
        model_sha256=hashlib.sha256(graph.read_bytes()).hexdigest(),
        prompt="one two",
    )


def write_tokenizer(folder: Path) -> None:
    """Writes a tokenizer of eight words, split at spaces."""
    folder.mkdir()
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=WORDS[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"model_type": "llama", "eos_token_id": 0}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def write_graph(path: Path) -> None:
    """Writes a decoder whose next token is the last one plus 1, and whose cache grows."""
    size = len(WORDS)
    weights = {
        "table": np.roll(np.eye(size, dtype=np.float32), 1, axis=1) * 4,
        "rows": np.ones((size, HEAD_SIZE), np.float32),
        "end": np.array([-1], np.int64),
        "heads": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Gather", ["input_ids", "end"], ["last"], axis=1),
        helper.make_node("Gather", ["table", "last"], ["logits"]),
        helper.make_node("Gather", ["rows", "input_ids"], ["new_rows"]),
        helper.make_node("Unsqueeze", ["new_rows", "heads"], ["new"]),
        *(
            helper.make_node("Concat", [f"past_key_values.0.{part}", "new"],
                             [f"present.0.{part}"], axis=2)
            for part in ("key", "value")
        ),
    ]  # fmt: skip
    ids = [("input_ids", ["batch", "sequence"]), ("attention_mask", ["batch", "total_sequence"])]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, axes) for name, axes in ids]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1, size])]
    for side, specs in ((inputs, CACHE[:2]), (outputs, CACHE[2:])):
        for spec in specs:
            axes = [axis.name if axis.is_dynamic else axis.size for axis in spec.axes]
            side.append(helper.make_tensor_value_info(spec.name, TensorProto.FLOAT, axes))
    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "counter", inputs, outputs, initializers)
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), str(path))
