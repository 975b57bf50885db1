"""The real vLLM on CPU loads what llmopt writes and decodes what the integers mean."""

import json
import math
import subprocess
from pathlib import Path
from typing import Any, Literal
from warnings import warn

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from tests.conftest import RunCli
from tests.models import REPOSITORY, TINY_MODEL, make_model
from tests.vllm.reference import write_dequantized


class TieWarning(UserWarning):
    """Names a token that fell to the other of two equally good ones; pytest prints it."""


VLLM_PYTHON = REPOSITORY / ".venvs" / "vllm" / "bin" / "python"
NUM_TOKENS = 32
TIE_LOGITS = 1e-2  # where the reference's two best logits lie this close, either may win
LOGPROB_NOISE = 3e-2  # nats; float16 kernels stay within a third of it
BF16_MANTISSA_BITS = 7
PROMPTS = (
    "シャツの前立ての縫製仕様を書いてください。",
    "綿100%のTシャツの洗濯表示を教えてください。",
    "ファスナーの取り付け方法と注意点は何ですか。",
    "染色堅牢度の試験項目を三つ挙げてください。",
    "身丈70cm、身幅52cmのときの許容差を決めてください。",
    "ボタンの大きさはライン数でどう表しますか。",
    "検品でAQL 2.5を使うときの抜取数を説明してください。",
    "テックパックに必要な項目を箇条書きにしてください。",
)

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.filterwarnings("default::tests.vllm.test_vllm.TieWarning"),
    pytest.mark.skipif(
        not VLLM_PYTHON.exists(), reason="needs the real vLLM: make vllm-env (llmopt doctor)"
    ),
]


def run_decoder(
    script: str, model: Path, dtype: str, folder: Path, request: dict[str, Any] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a script in vLLM's environment, into response.json; by default decodes the prompts."""
    if request is None:
        prompts = encode_prompts(model)
        request = {"prompt_token_ids": prompts, "max_tokens": NUM_TOKENS, "dtype": dtype}
    (folder / "request.json").write_text(json.dumps(request))
    path = REPOSITORY / "tests" / "vllm" / script
    return subprocess.run(
        [VLLM_PYTHON, path, model, folder / "request.json", folder / "response.json"],
        capture_output=True,
        text=True,
        timeout=420,
        check=False,
    )


def decode(script: str, model: Path, dtype: str, folder: Path) -> dict[str, Any]:
    """Decodes the prompts greedily and returns the response."""
    finished = run_decoder(script, model, dtype, folder)
    assert finished.returncode == 0, finished.stderr[-3000:]
    decoded: dict[str, Any] = json.loads((folder / "response.json").read_text())
    return decoded


def decode_in_vllm(model: Path, folder: Path, dtype: str = "float16") -> dict[str, Any]:
    """Decodes the prompts in the real vLLM.

    float16 by default: its kernels' noise lies below the allowed tie, that of bf16 above it.
    """
    return decode("greedy.py", model, dtype, folder)


def score_tokens(model: PreTrainedModel, prompt: list[int], tokens: list[int]) -> Tensor:
    """Returns the model's logits where each of the tokens was chosen, [T, V]."""
    with torch.inference_mode():
        logits: Tensor = model(torch.tensor([prompt + tokens[:-1]])).logits[0, len(prompt) - 1 :]
    return logits


def bf16_steps(logit: float, count: int) -> float:
    """Returns so many steps of bf16 at a logit's size: 1/32 each from 4 to 8, 1/16 from 8 to 16."""
    return count * 2.0 ** (math.floor(math.log2(abs(logit))) - BF16_MANTISSA_BITS)


def assert_decodes_like(
    dequantized: Path, decoded: dict[str, Any], dtype: Literal["float16", "bfloat16"] = "float16"
) -> None:
    """Holds every decoded token against the dequantised bf16 checkpoint, computed in float32.

    The reference reads what was decoded before, so that a tie does not end the comparison. Where
    its best token is another one, that must be a declared tie, and is printed.
    """
    reference = AutoModelForCausalLM.from_pretrained(dequantized, dtype=torch.float32).eval()
    prompts = encode_prompts(dequantized)
    for prompt, tokens, scores in zip(
        prompts, decoded["token_ids"], decoded["logprobs"], strict=True
    ):
        assert len(tokens) == NUM_TOKENS
        logits_TV = score_tokens(reference, prompt, tokens)
        best_T, logprobs_TV = logits_TV.argmax(-1).tolist(), logits_TV.log_softmax(-1)
        for position, token in enumerate(tokens):
            best = float(logits_TV[position].max())
            tie, logprob_noise = TIE_LOGITS, LOGPROB_NOISE
            if dtype == "bfloat16":  # no kernel that computes in it can be held to less
                tie, logprob_noise = bf16_steps(best, 2), bf16_steps(best, 4)
            distance = best - float(logits_TV[position, token])
            assert distance <= tie, f"token {position} differs at a distance of {distance}"
            if token != best_T[position]:
                warn(f"tie: {token} / {best_T[position]}, {distance:.4f}", TieWarning, 2)
            got = dict(scores[position])[token]
            noise = abs(got - float(logprobs_TV[position, token]))
            assert noise <= logprob_noise, f"token {position}'s logprob is off by {noise}"


def encode_prompts(model: Path) -> list[list[int]]:
    """Renders the prompts by the model's chat template."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    return [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
        )
        for text in PROMPTS
    ]


@pytest.mark.parametrize(
    ("options", "expected_method"),
    [
        (("--format", "gptq"), "gptq"),
        (("--format", "compressed-tensors"), "compressed"),
        (("--format", "gptq", "--group-size", "-1", "--desc-act"), "gptq"),
        (("--format", "compressed-tensors", "--group-size", "-1"), "compressed"),
        (("--format", "compressed-tensors", "--no-sym", "--group-size", "32"), "compressed"),
    ],
    ids=["gptq", "compressed-tensors", "gptq-desc-act", "w4-per-channel", "w4-asymmetric"],
)
def test_vllm_decodes_what_the_integers_mean(
    tmp_path: Path, run_cli: RunCli, options: tuple[str, ...], expected_method: str
) -> None:
    artifact = tmp_path / "artifact"
    finished = run_cli("quantize", "gptq", TINY_MODEL, "-o", artifact, *options)
    assert finished.returncode == 0, finished.stderr
    decoded = decode_in_vllm(artifact, tmp_path)
    assert expected_method in str(decoded["quantization"])
    assert_decodes_like(write_dequantized(artifact, tmp_path / "dequantized"), decoded)


@pytest.mark.parametrize("quant_format", ["gptq", "compressed-tensors"])
def test_vllm_serves_the_checkpoints_own_dtype(
    tmp_path: Path, run_cli: RunCli, quant_format: str
) -> None:
    """As a user serves it: bf16 throughout, which is coarser than the tie of the test above."""
    artifact = tmp_path / "artifact"
    finished = run_cli("quantize", "gptq", TINY_MODEL, "-o", artifact, "--format", quant_format)
    assert finished.returncode == 0, finished.stderr
    decoded = decode_in_vllm(artifact, tmp_path, dtype="auto")
    dequantized = write_dequantized(artifact, tmp_path / "dequantized")
    assert_decodes_like(dequantized, decoded, "bfloat16")


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("mistral", {"tie_word_embeddings": False}),
        ("qwen2", {}),
        ("qwen3", {}),
    ],
)
def test_vllm_loads_every_family(
    tmp_path: Path, run_cli: RunCli, family: str, config: dict[str, object]
) -> None:
    model = make_model(
        tmp_path / "model", family, hidden_size=256, head_dim=64, intermediate_size=512, **config
    )
    artifact = tmp_path / "artifact"
    options = ("--samples", "16", "--seq-len", "128")
    finished = run_cli("quantize", "gptq", model, "-o", artifact, *options)
    assert finished.returncode == 0, finished.stderr
    decoded = decode_in_vllm(artifact, tmp_path)
    assert_decodes_like(write_dequantized(artifact, tmp_path / "dequantized"), decoded)


def test_vllm_would_refuse_other_integers(tmp_path: Path, run_cli: RunCli) -> None:
    """The comparison can fail: a reference whose scales are 3 % off is told apart."""
    artifact = tmp_path / "artifact"
    finished = run_cli("quantize", "gptq", TINY_MODEL, "-o", artifact)
    assert finished.returncode == 0, finished.stderr
    decoded = decode_in_vllm(artifact, tmp_path)
    wrong = write_dequantized(artifact, tmp_path / "wrong", factor=0.97)
    with pytest.raises(AssertionError, match=r"differs at a distance|logprob is off"):
        assert_decodes_like(wrong, decoded)


@pytest.mark.parametrize(
    "options",
    [("--group-size", "-1"), ("--group-size", "128"), ("--no-sym",)],
    ids=["per-channel", "group-128", "asymmetric"],
)
def test_the_formats_own_library_reads_8_bits(
    tmp_path: Path, run_cli: RunCli, options: tuple[str, ...]
) -> None:
    """vLLM has no 8-bit weight-only kernel for CPUs; compressed-tensors itself decodes it."""
    artifact = tmp_path / "artifact"
    fixed = ("--format", "compressed-tensors", "--bits", "8")
    finished = run_cli("quantize", "gptq", TINY_MODEL, "-o", artifact, *fixed, *options)
    assert finished.returncode == 0, finished.stderr
    decoded = decode("transformers_greedy.py", artifact, "float32", tmp_path)
    assert_decodes_like(write_dequantized(artifact, tmp_path / "dequantized"), decoded)
