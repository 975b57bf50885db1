"""The real vLLM on CPU serves what `quantize.int8` and `quantize.fp8` write.

Rounded inputs make a model jump: a value that float16 noise carries over the middle between two
steps moves by a whole one. So no fixed tolerance is honest; the measure is the reference's own
distance from itself when it is computed in float16 instead of float32. A layer alone, whose
input is given exactly, is held to float16's precision.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from warnings import warn

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from llmopt.checkpoint.rounded_inputs import InputRounding, RoundedInputLinear
from tests.conftest import RunCli
from tests.models import TINY_MODEL, make_model
from tests.vllm.reference import round_linear_inputs, write_dequantized
from tests.vllm.test_vllm import (
    NUM_TOKENS,
    VLLM_PYTHON,
    TieWarning,
    decode,
    decode_in_vllm,
    encode_prompts,
    run_decoder,
    score_tokens,
)

KINDS = {"int8": "int", "fp8": "float"}
NOISE_FACTOR = 1.5  # vLLM's noise over the reference's own, both in float16
LAYER = "model.layers.2.mlp.down_proj"
HALF_PRECISION = 2.0**-10  # of the largest output: float16 has 11 bits

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.filterwarnings("default::tests.vllm.test_vllm.TieWarning"),
    pytest.mark.skipif(
        not VLLM_PYTHON.exists(), reason="needs the real vLLM: make vllm-env (llmopt doctor)"
    ),
]


@dataclass
class Comparison:
    """Distances in nats over all tokens: of vLLM from the reference, of it from itself."""

    ties: list[float]
    noise: NDArray[np.float64]
    own_noise: NDArray[np.float64]

    @property
    def factor(self) -> float:
        """How much noisier vLLM is than the reference itself."""
        return float(self.noise.mean() / self.own_noise.mean())

    def assert_equal(self) -> None:
        """Every other token is a tie within the noise of two scores; vLLM is no noisier."""
        for distance in self.ties:
            allowed = 2 * self.own_noise.max()
            assert distance <= allowed, f"a token differs at a distance of {distance}"
            warn(f"tie at a distance of {distance:.4f}", TieWarning, 2)
        assert self.factor <= NOISE_FACTOR, f"{self.factor:.2f} times the reference's own noise"


def quantize(run_cli: RunCli, method: str, model: Path, folder: Path, *options: str) -> Path:
    finished = run_cli("quantize", method, model, "-o", folder, *options)
    assert finished.returncode == 0, finished.stderr
    return folder


def load_reference(
    dequantized: Path, kind: str, dtype: torch.dtype, skipped: tuple[str, ...]
) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_pretrained(dequantized, dtype=dtype).eval()
    round_linear_inputs(model, kind, skipped)
    return model


def compare(
    dequantized: Path,
    kind: str,
    decoded: dict[str, Any],
    skipped: tuple[str, ...] = ("lm_head",),
) -> Comparison:
    """Holds every decoded token against the reference, which reads what was decoded before."""
    exact = load_reference(dequantized, kind, torch.float32, skipped)
    half = load_reference(dequantized, kind, torch.float16, skipped)
    ties, noise, own_noise = [], [], []
    rows = zip(encode_prompts(dequantized), decoded["token_ids"], decoded["logprobs"], strict=True)
    for prompt, tokens, scores in rows:
        assert len(tokens) == NUM_TOKENS
        logits_TV = score_tokens(exact, prompt, tokens)
        logprobs_TV = logits_TV.log_softmax(-1)
        half_TV = score_tokens(half, prompt, tokens).float().log_softmax(-1)
        for position, token in enumerate(tokens):
            distance = float(logits_TV[position].max() - logits_TV[position, token])
            ties += [distance] if distance else []
            score = float(logprobs_TV[position, token])
            noise.append(abs(dict(scores[position])[token] - score))
            own_noise.append(abs(float(half_TV[position, token]) - score))
    return Comparison(ties, np.array(noise), np.array(own_noise))


@pytest.mark.parametrize("method", KINDS)
def test_vllm_decodes_what_the_values_mean(tmp_path: Path, run_cli: RunCli, method: str) -> None:
    artifact = quantize(run_cli, method, TINY_MODEL, tmp_path / "artifact")
    decoded = decode_in_vllm(artifact, tmp_path)
    assert "compressed" in str(decoded["quantization"])
    exact = write_dequantized(artifact, tmp_path / "exact", dtype=torch.float32)
    compare(exact, KINDS[method], decoded).assert_equal()
    # The comparison can fail: weights that are 3 % off are told apart.
    wrong = write_dequantized(artifact, tmp_path / "wrong", factor=0.97, dtype=torch.float32)
    with pytest.raises(AssertionError, match=r"reference's own noise|differs at a distance"):
        compare(wrong, KINDS[method], decoded).assert_equal()


@pytest.mark.parametrize("method", KINDS)
def test_a_served_layer_rounds_its_inputs_as_eval_does(
    tmp_path: Path, run_cli: RunCli, method: str
) -> None:
    artifact = quantize(run_cli, method, TINY_MODEL, tmp_path / "artifact")
    stored = load_file(artifact / "model.safetensors")
    weight = stored[f"{LAYER}.weight"].float() * stored[f"{LAYER}.weight_scale"].float()
    torch.manual_seed(0)
    inputs = (torch.randn(7, weight.shape[1]) * torch.logspace(-2, 1, 7)[:, None]).half().float()
    request = {"prompt_token_ids": [[1]], "max_tokens": 1, "dtype": "float16"}
    request |= {"layer": LAYER, "inputs": inputs.tolist()}
    served = torch.tensor(run_layer(artifact, request, tmp_path))

    plain = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    plain.weight = torch.nn.Parameter(weight)
    quant_format = "int-quantized" if method == "int8" else "float-quantized"
    with torch.inference_mode():
        unrounded = plain(inputs)
        expected = RoundedInputLinear(plain, InputRounding(quant_format))(inputs)
        round_linear_inputs(torch.nn.Sequential(plain), KINDS[method])
        independent = plain(inputs)
    scale = expected.abs().amax(-1, keepdim=True)
    assert float(((expected - independent) / scale).abs().max()) < 1e-5
    assert float(((served - expected) / scale).abs().max()) < HALF_PRECISION
    assert float(((served - unrounded) / scale).abs().max()) > 4 * HALF_PRECISION


def run_layer(model: Path, request: dict[str, Any], folder: Path) -> list[list[float]]:
    finished = run_decoder("served_layer.py", model, "float16", folder, request)
    assert finished.returncode == 0, finished.stderr[-3000:]
    outputs: list[list[float]] = json.loads((folder / "response.json").read_text())["outputs"]
    return outputs


@pytest.mark.parametrize(
    ("family", "method", "skipped"),
    [
        ("mistral", "int8", ("lm_head",)),
        ("qwen2", "fp8", ("lm_head",)),
        ("qwen3", "int8", ("lm_head", "mlp.down_proj")),
    ],
)
def test_vllm_loads_every_family(
    tmp_path: Path, run_cli: RunCli, family: str, method: str, skipped: tuple[str, ...]
) -> None:
    model = make_model(
        tmp_path / "model", family, hidden_size=256, head_dim=64, intermediate_size=512
    )
    options = [part for name in skipped for part in ("--skip", name)]
    artifact = quantize(run_cli, method, model, tmp_path / "artifact", *options)
    decoded = decode_in_vllm(artifact, tmp_path)
    exact = write_dequantized(artifact, tmp_path / "exact", dtype=torch.float32)
    compare(exact, KINDS[method], decoded, skipped).assert_equal()


@pytest.mark.parametrize("method", KINDS)
def test_the_formats_own_library_reads_it(tmp_path: Path, run_cli: RunCli, method: str) -> None:
    artifact = quantize(run_cli, method, TINY_MODEL, tmp_path / "artifact")
    decoded = decode("transformers_greedy.py", artifact, "float32", tmp_path)
    exact = write_dequantized(artifact, tmp_path / "exact", dtype=torch.float32)
    compare(exact, KINDS[method], decoded).assert_equal()
