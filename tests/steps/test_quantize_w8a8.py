"""`quantize.fp8` and `quantize.int8`: what they write, refuse and estimate."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.checkpoint.safetensors_header import read_header
from llmopt.checkpoint.verification import verify_checkpoint
from llmopt.errors import IncompatibleError, InputError
from llmopt.steps.quantize_fp8 import QuantizeFp8
from llmopt.steps.quantize_int8 import QuantizeInt8
from llmopt.steps.w8a8_fields import W8A8Fields
from tests.checkpoint.numpy_dequantizer import dequantize_folder, read_folder
from tests.models import make_model
from tests.quant.pipeline import make_small_model
from tests.steps.stream_steps import make_inputs, run_step

STEPS: dict[str, type[W8A8Fields]] = {"fp8": QuantizeFp8, "int8": QuantizeInt8}
# Half a step, of the row's largest weight: 1/127 of it; float8 has 3 bits of mantissa.
LARGEST_ERROR = {"int8": 0.51 / 127, "fp8": 2.0**-4}

pytestmark = pytest.mark.usefixtures("one_thread")


def make_step(method: str, **fields: Any) -> W8A8Fields:
    return STEPS[method].model_validate({"uses": f"quantize.{method}", "model": "base", **fields})


@pytest.mark.parametrize("method", STEPS)
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_every_family_and_dtype(
    tmp_path: Path, family: str, dtype: torch.dtype, method: str
) -> None:
    model = make_small_model(
        tmp_path / "model", family, dtype=dtype, tie_word_embeddings=family == "qwen2"
    )
    folder, outcome = run_step(make_step(method), model, tmp_path)
    source, layers = load_file(model / "model.safetensors"), dequantize_folder(folder)
    made = load_file(folder / "model.safetensors")
    assert len(layers) == 14
    for name, tensor in source.items():
        layer = name.removesuffix(".weight")
        if layer in layers:
            weight = tensor.float().numpy()
            largest = np.abs(weight).max(axis=1, keepdims=True)
            error = np.abs(layers[layer].weights - weight)
            assert np.all(error <= LARGEST_ERROR[method] * largest + 2**-8 * np.abs(weight))
            assert made[f"{layer}.weight_scale"].dtype == dtype
        else:
            assert torch.equal(made[name], tensor), name
    assert set(made) - set(source) == {f"{layer}.weight_scale" for layer in layers}
    report = verify_checkpoint(folder)
    assert report.faults == []
    assert "W8A8" in report.description
    assert {error.layer for error in outcome.layers} == set(layers)
    assert outcome.metrics["source_weights_bytes"] == Checkpoint.open(model).weight_bytes()


@pytest.mark.parametrize("method", STEPS)
def test_shards_keep_their_names_and_the_index_is_anew(tmp_path: Path, method: str) -> None:
    model = make_model(tmp_path / "model", tie_word_embeddings=False, max_shard_size="1MB")
    folder, _ = run_step(make_step(method), model, tmp_path)
    names = sorted(path.name for path in model.glob("*.safetensors"))
    assert len(names) == 3
    assert sorted(path.name for path in folder.glob("*.safetensors")) == names
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    headers = {name: read_header(folder / name) for name in names}
    expected = {tensor: name for name, entries in headers.items() for tensor in entries}
    assert index["weight_map"] == expected
    tensors = read_folder(folder)
    assert index["metadata"]["total_size"] == sum(len(t.data) for t in tensors.values())
    assert verify_checkpoint(folder).faults == []


def test_skipped_layers_are_named_for_servers(tmp_path: Path, random_model: Path) -> None:
    step = make_step("int8", skip=["lm_head", "model.layers.1", "down_proj"])
    folder, _ = run_step(step, random_model, tmp_path)
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    kept = [f"model.layers.{n}.mlp.down_proj" for n in (0, 2)]
    assert config["ignore"][0] == "lm_head"
    assert set(kept) < set(config["ignore"])
    assert len(config["ignore"]) == 1 + 2 + 7
    stored = Checkpoint.open(folder).quantization
    assert stored is not None
    assert stored.find_layer(kept[0]) is None
    assert stored.find_layer("model.layers.0.mlp.up_proj") is not None


def test_a_part_of_a_fused_layer_is_refused(random_model: Path) -> None:
    step = make_step("fp8", skip=["lm_head", "model.layers.1.self_attn.k_proj"])
    with pytest.raises(IncompatibleError, match=r"as one with model\.layers\.1\.self_attn\."):
        step.preflight(make_inputs(random_model), None)


def test_a_skip_that_names_nothing_is_refused_before_any_work(random_model: Path) -> None:
    step = make_step("fp8", skip=["mlp.dwon_proj"])
    with pytest.raises(InputError, match=r"'mlp\.dwon_proj' names no linear layer"):
        step.preflight(make_inputs(random_model), None)


def test_a_quantised_model_is_refused(tmp_path: Path, random_model: Path) -> None:
    folder, _ = run_step(make_step("int8"), random_model, tmp_path)
    with pytest.raises(InputError, match=r"quantised already .*int8 W8A8"):
        make_step("fp8").preflight(make_inputs(folder), None)


@pytest.mark.parametrize("method", STEPS)
def test_the_estimate_of_the_disk_is_what_is_written(
    tmp_path: Path, random_model: Path, method: str
) -> None:
    step = make_step(method)
    estimate = step.estimate(make_inputs(random_model))
    folder, _ = run_step(step, random_model, tmp_path)
    written = sum(
        path.stat().st_size
        for path in folder.iterdir()
        if path.name not in ("README.md", "config.json")
    )
    assert estimate is not None
    assert 0 <= written - estimate.disk_bytes < 20_000  # headers


def test_the_estimate_counts_the_workers_that_run(
    tmp_path: Path, random_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def estimate_ram(**fields: Any) -> int:
        found = make_step("fp8", **fields).estimate(make_inputs(random_model))
        assert found is not None
        return found.ram_bytes

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(3)), raising=False)
    assert estimate_ram() == estimate_ram(workers=3)
    _, outcome = run_step(make_step("fp8"), random_model, tmp_path, threads=None)
    assert outcome.machine["workers"] == "3"
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(200)), raising=False)
    assert estimate_ram() == estimate_ram(workers=64)
    assert make_step("fp8").count_workers(threads=100) == 64
    assert make_step("fp8", workers=7).count_workers(threads=100) == 7


def test_an_unsuitable_model_has_no_estimate(random_model: Path) -> None:
    inputs = make_inputs(random_model)
    assert make_step("fp8", skip=["k_proj"]).estimate(inputs) is None  # IncompatibleError
    assert make_step("fp8", skip=["dwon_proj"]).estimate(inputs) is None  # InputError


def test_data_makes_int8_better_where_it_counts(
    tmp_path: Path, random_model: Path, documents: Path
) -> None:
    nearest, _ = run_step(make_step("int8"), random_model, tmp_path / "nearest")
    step = make_step("int8", data="calibration", damp_percent=0.02)
    solved, outcome = run_step(step, random_model, tmp_path / "solved", documents=documents)
    assert verify_checkpoint(solved).faults == []
    one, other = read_folder(nearest), read_folder(solved)
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert (tensor.dtype, tensor.shape) == (other[name].dtype, other[name].shape)
    config = json.loads((nearest / "config.json").read_text())
    assert json.loads((solved / "config.json").read_text()) == config
    assert outcome.metrics["calibration_tokens"] == 4 * 64
    assert all(error.damp_percent == 0.02 for error in outcome.layers)
    # GPTQ trades weight error for output error: further from the weights, and by little.
    weights = {e.layer: e.weight_mse for e in outcome.layers}
    source = load_file(random_model / "model.safetensors")
    for layer, values in dequantize_folder(solved).items():
        exact = source[f"{layer}.weight"].float().numpy()
        assert weights[layer] == pytest.approx(
            float(np.mean((values.weights - exact) ** 2)), rel=0.02
        )
    assert step.estimate(make_inputs(random_model, documents)) is not None


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
@pytest.mark.parametrize("method", ["fp8", "int8", "int8 with data"])
def test_experts_are_rounded_and_routers_are_kept(
    tmp_path: Path, documents: Path, family: str, method: str
) -> None:
    model = make_model(tmp_path / "model", family, num_hidden_layers=2, tie_word_embeddings=False)
    data = {"data": "calibration"} if "data" in method else {}
    step = make_step(method.split(maxsplit=1)[0], **data)
    folder, outcome = run_step(step, model, tmp_path, documents=documents if data else None)
    layers = dequantize_folder(folder)
    experts = [name for name in layers if ".experts." in name]
    assert len(layers) == 2 * (4 + 3 * 4)
    assert len(experts) == 2 * 3 * 4
    assert {error.layer for error in outcome.layers} == set(layers)
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert len(config["ignore"]) == 1 + 2
    assert all(name == "lm_head" or name.endswith(".gate") for name in config["ignore"])
    assert verify_checkpoint(folder).faults == []


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_experts_that_no_token_reaches_are_rounded_and_named(
    tmp_path: Path, documents: Path, family: str
) -> None:
    sizes = {"num_hidden_layers": 1, "num_experts": 40, "num_experts_per_tok": 1}
    model = make_model(tmp_path / "model", family, tie_word_embeddings=False, **sizes)
    policy = {"min_tokens": 1, "starved": "rtn"}
    step = make_step("int8", data="calibration", experts=policy)
    folder, outcome = run_step(step, model, tmp_path, documents=documents)
    unseen = [error.layer for error in outcome.layers if error.num_tokens == 0]
    assert unseen
    assert {error.starved for error in outcome.layers if error.layer in unseen} == {"rtn"}
    said = "0 calibration tokens were routed to it, fewer than 1 (experts.min_tokens)"
    assert outcome.degraded == [f"{layer}: {said}; rounded to nearest" for layer in unseen]
    assert len(dequantize_folder(folder)) == 4 + 3 * 40
    assert verify_checkpoint(folder).faults == []


def test_calibrated_int8_counts_its_bits_as_gptq_does(
    tmp_path: Path, random_model: Path, documents: Path
) -> None:
    step = make_step("int8", data="calibration")
    _, outcome = run_step(step, random_model, tmp_path, documents=documents)
    layers = [
        entry
        for name, entry in Checkpoint.open(random_model).tensors.items()
        if name.endswith("_proj.weight")
    ]
    num_scales = sum(entry.shape[0] for entry in layers)
    num_weights = sum(entry.shape[0] * entry.shape[1] for entry in layers)
    expected = 8 + 16 * num_scales / num_weights
    assert outcome.metrics["bits_per_weight"] == pytest.approx(expected, abs=1e-4)
    assert outcome.timings.keys() == {"prepare_s", "quantize_s", "write_s"}


def test_a_part_of_the_experts_is_refused(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", "mixtral", num_hidden_layers=1)
    step = make_step("int8", skip=["lm_head", "experts.2"])
    with pytest.raises(IncompatibleError, match=r"as one with .*experts\.0\.w1"):
        step.preflight(make_inputs(model), None)


def test_calibration_fields_want_data() -> None:
    with pytest.raises(ValueError, match="damp_percent speaks of calibration, but no data"):
        make_step("int8", damp_percent=0.02)
    with pytest.raises(ValueError, match="experts speaks of calibration, but no data"):
        make_step("int8", experts={"starved": "rtn"})
    with pytest.raises(ValueError, match=r"damp_percent 0\.9 exceeds max_damp_percent 0\.5"):
        make_step("int8", data="calibration", damp_percent=0.9)


@pytest.mark.parametrize(
    ("method", "said"), [("fp8", "Ada and Hopper"), ("int8", "On Ampere (A100, RTX 3090)")]
)
def test_the_card_says_what_serves_it(
    tmp_path: Path, random_model: Path, method: str, said: str
) -> None:
    folder, _ = run_step(make_step(method), random_model, tmp_path)
    assert said in (folder / "README.md").read_text(encoding="utf-8")
