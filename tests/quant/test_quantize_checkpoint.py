"""The whole engine in this process: small models of every family, real files, no mocks."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from llmopt.artifacts.progress import SilentProgress
from llmopt.checkpoint.checkpoint import Checkpoint, linear_names
from llmopt.checkpoint.model_config import DECODER_STAGES
from llmopt.checkpoint.stored_quantization import QuantFormat
from llmopt.data.calibration_windows import CalibrationWindows
from llmopt.errors import InputError, NumericalError
from llmopt.quant.journal import Journal
from llmopt.quant.quantize_checkpoint import QuantizeJob, quantize_blocks
from llmopt.quant.rounding import solve_rtn
from llmopt.steps.layer_overrides import build_plan
from tests.checkpoint.numpy_dequantizer import dequantize_folder, read_folder
from tests.quant.layers import make_options
from tests.quant.pipeline import SMALL_VOCAB, Quantized, make_small_model, make_windows, quantize
from tests.quant.textbook_gptq import TextbookScheme, output_error, textbook_gptq

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERS = [layer for stage in DECODER_STAGES for layer in stage.layers]
GPTQ_KEYS = {
    "quant_method", "bits", "group_size", "sym", "desc_act", "lm_head", "checkpoint_format",
    "true_sequential", "damp_percent", "pack_dtype", "meta",
}  # fmt: skip
COMPRESSED_KEYS = {
    "quant_method", "format", "quantization_status", "config_groups", "ignore", "kv_cache_scheme",
    "global_compression_ratio",
}  # fmt: skip
WEIGHTS_KEYS = {
    "num_bits", "type", "symmetric", "strategy", "group_size", "actorder", "block_structure",
    "dynamic", "observer", "observer_kwargs",
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 2 blocks, hidden 64, bf16; do not write into it."""
    return make_small_model(tmp_path_factory.mktemp("quantize") / "model")


def read_files(folder: Path) -> dict[str, bytes]:
    """Returns every file's bytes by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_kept_bytes(source: Path, result: Path) -> None:
    """Everything but the linear layers' weights is what it was, byte for byte."""
    before, after = read_folder(source), read_folder(result)
    config = Checkpoint.open(source).config
    weights = {f"{name}.weight" for name, _ in linear_names(config)}
    kept = before.keys() - weights
    assert kept == {name for name in after if name in before}
    for name in kept:
        assert after[name] == before[name], name
    biases = {name for name in kept if name.endswith("bias")}
    assert len(biases) == config.num_hidden_layers * len(config.biased_linears())


def assert_better_than_nearest(result: Quantized) -> None:
    """No stage's loss is above what round-to-nearest has on the same weights and inputs."""
    for W, H, solution in result.solver.seen:
        scheme, dtype = result.solver.options.scheme, result.solver.options.scale_dtype
        nearest = solve_rtn(W, H, replace(scheme, desc_act=False), dtype)
        assert float(solution.loss_R.sum()) < float(nearest.loss_R.sum())


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_quantises_every_family(
    tmp_path: Path, family: str, dtype: torch.dtype, tied: bool
) -> None:
    source = make_small_model(
        tmp_path / "model", family, dtype=dtype, tie_word_embeddings=tied, attention_bias=True
    )
    result = quantize(source, tmp_path)
    assert_kept_bytes(source, result.folder)
    assert_better_than_nearest(result)
    reopened = Checkpoint.open(result.folder)
    assert reopened.config.tie_word_embeddings == tied
    assert ("lm_head.weight" in reopened.tensors) != tied
    assert len(dequantize_folder(result.folder)) == 14


@pytest.mark.parametrize("order", ["natural", "desc_act", "act_group_aware"])
def test_every_stage_is_as_good_as_the_textbook(model: Path, tmp_path: Path, order: str) -> None:
    result = quantize(model, tmp_path, options=make_options(order=order))
    assert len(result.solver.seen) == 2 * 4
    for W, H, solution in result.solver.seen:
        weights, hessian = W.double().numpy(), H.double().numpy()
        textbook = textbook_gptq(weights, hessian, TextbookScheme(4, 32, sym=True, order=order))
        loss = output_error(weights, solution.weight.dequantize(torch.float64).numpy(), hessian)
        # A tie that falls to the other side moves few of these small layers' weights.
        expected = output_error(weights, textbook.dequantize(), hessian)
        assert loss == pytest.approx(expected, rel=0.03)


def test_ledger_lists_every_layer_in_order(model: Path, tmp_path: Path) -> None:
    result = quantize(model, tmp_path)
    errors = result.journal.errors
    expected = [f"model.layers.{block}.{layer}" for block in range(2) for layer in LAYERS]
    assert [error.layer for error in errors] == expected
    original = {name: tensor.to_numpy() for name, tensor in read_folder(model).items()}
    rounded = dequantize_folder(result.folder)
    for error in errors:
        difference = original[f"{error.layer}.weight"] - rounded[error.layer].weights
        assert error.weight_mse == pytest.approx(float(np.mean(difference**2)), rel=1e-3)
        assert error.loss > 0
        assert error.snr_db > 10
        assert (error.damp_percent, error.damp_retries) == (0.01, 0)


def test_second_stage_is_calibrated_on_what_the_first_left(model: Path, tmp_path: Path) -> None:
    # o_proj reads activations that went through the rounded q, k and v: coarse ones differ.
    coarse = quantize(model, tmp_path / "4", options=make_options(4))
    fine = quantize(model, tmp_path / "8", options=make_options(8))
    for stage in range(8):
        one, other = coarse.solver.seen[stage][1], fine.solver.seen[stage][1]
        assert torch.allclose(one, other, rtol=1e-3) == (stage == 0)


def test_gptq_config_is_complete(model: Path, tmp_path: Path) -> None:
    result = quantize(model, tmp_path, options=make_options(8, 32, order="desc_act"))
    config = json.loads((result.folder / "config.json").read_text())["quantization_config"]
    assert config.keys() == GPTQ_KEYS
    assert config["quant_method"] == "gptq"
    assert (config["bits"], config["group_size"]) == (8, 32)
    assert (config["sym"], config["desc_act"]) == (True, True)
    assert json.loads((result.folder / "quantize_config.json").read_text()) == config


def test_compressed_tensors_config_is_complete(model: Path, tmp_path: Path) -> None:
    result = quantize(model, tmp_path, quant_format="compressed-tensors")
    config = json.loads((result.folder / "config.json").read_text())["quantization_config"]
    assert config.keys() == COMPRESSED_KEYS
    assert config["config_groups"]["group_0"]["weights"].keys() == WEIGHTS_KEYS
    assert not (result.folder / "quantize_config.json").exists()


@pytest.mark.parametrize("quant_format", ["gptq", "compressed-tensors"])
def test_same_input_gives_the_same_bytes(
    model: Path, tmp_path: Path, quant_format: QuantFormat
) -> None:
    for name in "ab":
        quantize(model, tmp_path / name, quant_format=quant_format)
    first, second = (read_files(tmp_path / name / "checkpoint") for name in "ab")
    assert first == second


@pytest.mark.parametrize("padded", [False, True])
# A batch of 51 windows holds 522 kB at its narrowest: two of three fit the second budget.
@pytest.mark.parametrize(("budget_bytes", "num_on_disk"), [(5_000, 3), (1_100_000, 1)])
def test_activations_on_disk_change_nothing(
    tmp_path: Path, budget_bytes: int, num_on_disk: int, padded: bool
) -> None:
    model = make_small_model(tmp_path / "model", dtype=torch.float32)
    windows = make_windows(samples=150)  # three batches
    if padded:
        windows = CalibrationWindows(windows.ids_NT, np.arange(150) % 39 + 2)
    in_memory = quantize(model, tmp_path / "memory", windows=windows)
    on_disk = quantize(model, tmp_path / "disk", windows=windows, budget_bytes=budget_bytes)
    assert len(list((tmp_path / "disk/scratch/activations/0").iterdir())) == num_on_disk
    assert not (tmp_path / "memory/scratch/activations/0").exists()
    assert read_files(in_memory.folder) == read_files(on_disk.folder)
    assert in_memory.journal.errors == on_disk.journal.errors


def test_what_stands_in_the_padding_changes_nothing(model: Path, tmp_path: Path) -> None:
    windows = make_windows(samples=20)
    lengths = np.arange(20) % 30 + 5
    other = windows.ids_NT.copy()
    for row, length in enumerate(lengths):
        other[row, length:] = (other[row, length:] + 7) % SMALL_VOCAB
    results = [
        quantize(model, tmp_path / name, windows=CalibrationWindows(ids, lengths))
        for name, ids in (("a", windows.ids_NT), ("b", other))
    ]
    assert read_files(results[0].folder) == read_files(results[1].folder)


def test_padded_windows_equal_unpadded_ones(model: Path, tmp_path: Path) -> None:
    short = make_windows(samples=12, seq_len=30)
    padded = CalibrationWindows(
        np.pad(short.ids_NT, ((0, 0), (0, 26))), np.full(12, 30, dtype=np.int64)
    )
    # float32, so that kernels that round differently by length leave the result as it is.
    source = make_small_model(tmp_path / "model", dtype=torch.float32)
    options = make_options(scale_dtype=torch.float32)
    results = [
        quantize(source, tmp_path / name, windows=windows, options=options)
        for name, windows in (("short", short), ("padded", padded))
    ]
    first, second = (dequantize_folder(result.folder) for result in results)
    same = np.mean([np.mean(first[name].integers == second[name].integers) for name in first])
    assert same > 0.999
    for one, other in zip(*(result.journal.errors for result in results), strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-2)
    for (_, one, _), (_, other, _) in zip(*(result.solver.seen for result in results), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3 * float(one.diagonal().mean()))


class InterruptedRunError(Exception):
    """Stands for the kill that ends a run."""


class InterruptingProgress(SilentProgress):
    """Ends the run after so many details (layers) or advances (blocks); keeps the notes."""

    def __init__(self, details: int = -1, advances: int = -1) -> None:
        self.details, self.advances = details, advances
        self.notes: list[str] = []
        self.started: tuple[Any, ...] = ()

    def start(self, *arguments: Any) -> None:
        self.started = arguments

    def note(self, message: str) -> None:
        self.notes.append(message)

    def detail(self, text: str) -> None:  # noqa: ARG002
        self.details -= 1
        if self.details == 0:
            raise InterruptedRunError

    def advance(self) -> None:
        self.advances -= 1
        if self.advances == 0:
            raise InterruptedRunError


@pytest.mark.parametrize(
    ("progress", "done"),
    [
        (InterruptingProgress(details=3), 0),
        (InterruptingProgress(advances=1), 1),
        (InterruptingProgress(details=7 + 4), 1),
        (InterruptingProgress(advances=2), 2),
        (InterruptingProgress(details=3 * 7), 2),
    ],
    ids=["in block 0", "after block 0", "in block 1", "after block 1", "in the last block"],
)
@pytest.mark.parametrize("budget_bytes", [0, 1_000_000_000])
def test_interrupted_run_goes_on_to_the_same_bytes(
    tmp_path: Path, progress: InterruptingProgress, done: int, budget_bytes: int
) -> None:
    model = make_small_model(tmp_path / "model", num_hidden_layers=3)
    whole = quantize(model, tmp_path / "whole")
    again = InterruptingProgress()
    with pytest.raises(InterruptedRunError):
        quantize(
            model, tmp_path / "cut", progress=replace_counts(progress), budget_bytes=budget_bytes
        )
    resumed = quantize(model, tmp_path / "cut", progress=again, budget_bytes=budget_bytes)
    assert read_files(resumed.folder) == read_files(whole.folder)
    assert resumed.journal.errors == whole.journal.errors
    assert again.notes == ([f"resumed: {done} of 3 blocks"] if done else [])
    assert again.started == ("quantising blocks", 3, done)


@pytest.mark.parametrize(("interval_s", "done"), [(0.0, 2), (1e6, 0)])
def test_blocks_since_the_last_commit_are_done_again(
    tmp_path: Path, interval_s: float, done: int
) -> None:
    model = make_small_model(tmp_path / "model", num_hidden_layers=3)
    whole = quantize(model, tmp_path / "whole")
    with pytest.raises(InterruptedRunError):
        quantize(
            model, tmp_path / "cut", progress=InterruptingProgress(advances=2),
            commit_interval_s=interval_s,
        )  # fmt: skip
    again = InterruptingProgress()
    resumed = quantize(model, tmp_path / "cut", progress=again, commit_interval_s=interval_s)
    assert again.started == ("quantising blocks", 3, done)
    assert read_files(resumed.folder) == read_files(whole.folder)
    assert resumed.journal.errors == whole.journal.errors


@pytest.mark.parametrize("interval_s", [0.0, 1e6])
def test_run_that_ended_after_the_last_block_only_needs_writing(
    tmp_path: Path, interval_s: float
) -> None:
    model = make_small_model(tmp_path / "model", num_hidden_layers=3)
    whole = quantize(model, tmp_path / "whole")
    with pytest.raises(InterruptedRunError):
        quantize(
            model, tmp_path / "cut", progress=InterruptingProgress(advances=3),
            commit_interval_s=interval_s,
        )  # fmt: skip
    assert not list((tmp_path / "cut" / "scratch").glob("hidden-*"))  # nothing would read it
    resumed = quantize(model, tmp_path / "cut")
    assert resumed.solver.seen == []
    assert read_files(resumed.folder) == read_files(whole.folder)


def test_interrupted_run_goes_on_with_as_many_threads_as_it_began_with(tmp_path: Path) -> None:
    """The number of threads decides the last bits of a product, so of an integer, too."""
    model = make_small_model(tmp_path / "model", num_hidden_layers=3)
    torch.set_num_threads(2)
    whole = quantize(model, tmp_path / "whole")
    with pytest.raises(InterruptedRunError):
        quantize(model, tmp_path / "cut", progress=InterruptingProgress(advances=1))
    torch.set_num_threads(1)
    again = InterruptingProgress()
    resumed = quantize(model, tmp_path / "cut", progress=again)
    assert torch.get_num_threads() == 2
    assert again.notes == ["going on with 2 CPU threads, as it began", "resumed: 1 of 3 blocks"]
    assert read_files(resumed.folder) == read_files(whole.folder)


def test_damaged_work_is_thrown_away_and_done_again(model: Path, tmp_path: Path) -> None:
    whole = quantize(model, tmp_path / "whole")
    with pytest.raises(InterruptedRunError):
        quantize(model, tmp_path / "cut", progress=InterruptingProgress(advances=1))
    block = tmp_path / "cut/scratch/block-00000.safetensors"
    block.write_bytes(block.read_bytes()[:-8] + bytes(8))
    again = InterruptingProgress()
    resumed = quantize(model, tmp_path / "cut", progress=again)
    assert read_files(resumed.folder) == read_files(whole.folder)
    (note,) = again.notes
    assert note.startswith("unfinished work can't be used, starting anew: block-00000.safetensors")


def replace_counts(progress: InterruptingProgress) -> InterruptingProgress:
    """Returns a fresh copy, since the counts run down."""
    return InterruptingProgress(progress.details, progress.advances)


def round_without_data(model: Path, scratch: Path) -> Journal:
    """Rounds a model to nearest with no calibration data."""
    scheme = make_options().scheme
    return quantize_blocks(
        QuantizeJob(
            checkpoint=Checkpoint.open(model),
            plan=build_plan(Checkpoint.open(model).config, scheme),
            solve=partial(solve_rtn, scale_dtype=torch.bfloat16),
            format="gptq",
            windows=None,
            scratch=scratch,
            device=torch.device("cpu"),
            processor="here",
            activation_budget_bytes=0,
            progress=SilentProgress(),
        )
    )


def test_nearest_needs_no_data(model: Path, tmp_path: Path) -> None:
    journal = round_without_data(model, tmp_path)
    assert len(journal.packed_tensors()) == 2 * 7 * 4
    assert {error.loss for error in journal.errors} == {None}
    assert all(error.weight_mse > 0 for error in journal.errors)


def spoil_weight(model: Path, folder: Path, name: str, value: float) -> Path:
    """Copies a model with one number of one tensor changed."""
    folder.mkdir()
    for path in model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    tensors[name].view(-1)[7] = value
    safetensors.torch.save_file(tensors, folder / "model.safetensors")
    return folder


LINEAR = "model.layers.1.mlp.up_proj.weight"
KEPT = (
    "model.embed_tokens.weight",
    "model.layers.1.input_layernorm.weight",
    "model.norm.weight",
    "lm_head.weight",
)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", [LINEAR, *KEPT])
@pytest.mark.parametrize("with_data", [True, False])
def test_weights_that_are_not_finite_are_refused(
    tmp_path: Path, with_data: bool, name: str, value: float
) -> None:
    model = make_small_model(tmp_path / "model", tie_word_embeddings=False)
    spoiled = spoil_weight(model, tmp_path / "spoiled", name, value)
    with pytest.raises(InputError, match=f"tensor {name} holds NaN or infinity"):
        quantize(spoiled, tmp_path) if with_data else round_without_data(spoiled, tmp_path)
    assert not (tmp_path / "checkpoint").exists()


def test_activations_that_overflow_name_the_layers(model: Path, tmp_path: Path) -> None:
    name = "model.layers.1.input_layernorm.weight"
    spoiled = spoil_weight(model, tmp_path / "spoiled", name, 3e38)
    pattern = r"model\.layers\.1\.\w+: the calibration activations hold NaN or infinity"
    with pytest.raises(NumericalError, match=pattern):
        quantize(spoiled, tmp_path / "out")


def test_damping_budget_that_is_too_small_names_the_layers(model: Path, tmp_path: Path) -> None:
    # Three tokens can't make a Hessian of 64 columns regular, and this damping is none.
    options = make_options(damp_percent=1e-12, max_damp_percent=2e-12)
    pattern = r"model\.layers\.0\.qkv: the Hessian is not positive definite"
    with pytest.raises(NumericalError, match=pattern) as caught:
        quantize(model, tmp_path, options=options, windows=make_windows(1, 3))
    assert "calibrate with more tokens" in str(caught.value.remedy)


def test_tokens_beyond_the_vocabulary_are_refused(model: Path, tmp_path: Path) -> None:
    windows = make_windows()
    windows.ids_NT[2, 5] = SMALL_VOCAB
    pattern = f"token id {SMALL_VOCAB}, but the model's vocab_size is {SMALL_VOCAB}"
    with pytest.raises(InputError, match=pattern):
        quantize(model, tmp_path, windows=windows)
