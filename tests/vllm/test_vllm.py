"""The real vLLM on CPU loads what llmopt writes and decodes what the integers mean."""

import json
import subprocess
from pathlib import Path
from warnings import warn

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from tests.conftest import RunCli
from tests.models import REPOSITORY, TINY_MODEL, make_model
from tests.vllm.reference import write_dequantized


class TieWarning(UserWarning):
    """Names a token that fell to the other of two equally good ones; pytest prints it."""


VLLM_PYTHON = REPOSITORY / ".venvs" / "vllm" / "bin" / "python"
NUM_TOKENS = 32
TIE_LOGITS = 1e-2  # where the reference's two best logits lie this close, either may win
# Two steps of bf16 logits between 4 and 8: kernels that scale after the product round otherwise.
BF16_NOISE = 2.0**-4
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
    script: str, model: Path, prompts: list[list[int]], folder: Path
) -> subprocess.CompletedProcess[str]:
    """Decodes greedily in a process of vLLM's environment, into folder/response.json."""
    request = folder / "request.json"
    request.write_text(json.dumps({"prompt_token_ids": prompts, "max_tokens": NUM_TOKENS}))
    path = REPOSITORY / "tests" / "vllm" / script
    return subprocess.run(
        [VLLM_PYTHON, path, model, request, folder / "response.json"],
        capture_output=True,
        text=True,
        timeout=420,
        check=False,
    )


def decode(script: str, model: Path, prompts: list[list[int]], folder: Path) -> dict[str, object]:
    """Decodes greedily and returns the response."""
    finished = run_decoder(script, model, prompts, folder)
    assert finished.returncode == 0, finished.stderr[-3000:]
    decoded: dict[str, object] = json.loads((folder / "response.json").read_text())
    return decoded


def decode_in_vllm(model: Path, prompts: list[list[int]], folder: Path) -> dict[str, object]:
    """Decodes greedily in the real vLLM."""
    return decode("greedy.py", model, prompts, folder)


def decode_reference(
    model: PreTrainedModel, prompt: list[int]
) -> tuple[list[int], list[tuple[int, float]]]:
    """Decodes greedily in transformers; also each step's runner-up and its logit's distance."""
    ids = torch.tensor([prompt])
    tokens, runners_up = [], []
    past = None
    with torch.inference_mode():
        for _ in range(NUM_TOKENS):
            output = model(ids, past_key_values=past, use_cache=True)
            past = output.past_key_values
            best = output.logits[0, -1].float().topk(2)
            tokens.append(int(best.indices[0]))
            runners_up.append((int(best.indices[1]), float(best.values[0] - best.values[1])))
            ids = best.indices[:1][None]
    return tokens, runners_up


def assert_same_tokens(
    model: Path, dequantized: Path, decoded: dict[str, object], tie: float = TIE_LOGITS
) -> None:
    """Compares token by token; a differing token must be a declared tie, and is printed."""
    reference = AutoModelForCausalLM.from_pretrained(dequantized, dtype=torch.bfloat16).eval()
    token_ids = decoded["token_ids"]
    assert isinstance(token_ids, list)
    for prompt, got in zip(encode_prompts(model), token_ids, strict=True):
        expected, runners_up = decode_reference(reference, prompt)
        assert len(got) == NUM_TOKENS
        for position, (mine, theirs) in enumerate(zip(expected, got, strict=True)):
            if mine == theirs:
                continue
            runner_up, distance = runners_up[position]
            assert theirs == runner_up, f"token {position}: {theirs} is neither of the best two"
            assert distance <= tie, f"token {position} differs at a distance of {distance}"
            warn(f"tie at token {position}: {mine} / {theirs}, {distance:.4f}", TieWarning, 2)
            break  # after a tie the two texts go different ways


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
        (("--format", "compressed-tensors"), "compressed-tensors"),
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
    decoded = decode_in_vllm(artifact, encode_prompts(artifact), tmp_path)
    assert expected_method in str(decoded["quantization"])
    dequantized = write_dequantized(artifact, tmp_path / "dequantized")
    is_default = "--group-size" not in options
    assert_same_tokens(artifact, dequantized, decoded, TIE_LOGITS if is_default else BF16_NOISE)


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
    decoded = decode_in_vllm(artifact, encode_prompts(artifact), tmp_path)
    dequantized = write_dequantized(artifact, tmp_path / "dequantized")
    assert_same_tokens(artifact, dequantized, decoded, BF16_NOISE)


def test_vllm_would_refuse_other_integers(tmp_path: Path, run_cli: RunCli) -> None:
    """The comparison can fail: a reference with other scales gives other tokens."""
    artifact = tmp_path / "artifact"
    finished = run_cli("quantize", "gptq", TINY_MODEL, "-o", artifact)
    assert finished.returncode == 0, finished.stderr
    decoded = decode_in_vllm(artifact, encode_prompts(artifact), tmp_path)
    wrong = write_dequantized(artifact, tmp_path / "wrong", factor=0.8)
    with pytest.raises(AssertionError, match=r"differs at a distance|neither of the best two"):
        assert_same_tokens(artifact, wrong, decoded)


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
    decoded = decode("transformers_greedy.py", artifact, encode_prompts(artifact), tmp_path)
    dequantized = write_dequantized(artifact, tmp_path / "dequantized")
    assert_same_tokens(artifact, dequantized, decoded, BF16_NOISE)


@pytest.mark.parametrize(
    ("options", "refusal", "vllm_says"),
    [
        (("--no-sym",), "must be symmetric", "Unsupported quantization config"),
        (("--desc-act",), "act-order with groups", "desc_act=True"),
        (("--desc-act", "--format", "compressed-tensors"), "act-order", "actorder='group'"),
        (("--bits", "8"), "take 4 bits", "Marlin does not support weight_bits"),
        (("--bits", "8", "--format", "compressed-tensors"), "take 4 bits", "not supported by CPU"),
    ],
    ids=["gptq-asym", "gptq-desc-act", "ct-desc-act", "gptq-8", "ct-8"],
)
def test_preflight_refuses_what_vllm_on_cpu_refuses(
    tmp_path: Path, run_cli: RunCli, options: tuple[str, ...], refusal: str, vllm_says: str
) -> None:
    artifact, recipe = tmp_path / "artifact", tmp_path / "recipe.yaml"
    short = ("--samples", "2", "--seq-len", "64")
    written = run_cli("quantize", "gptq", TINY_MODEL, *options, *short, "--print-recipe")
    recipe.write_text(written.stdout + "target: {runtime: vllm, device: cpu}\n")
    refused = run_cli("validate", recipe)
    assert refused.returncode == 7, refused.stderr
    assert refusal in refused.stderr
    finished = run_cli("quantize", "gptq", TINY_MODEL, "-o", artifact, *options, *short)
    assert finished.returncode == 0, finished.stderr
    decoded = run_decoder("greedy.py", artifact, encode_prompts(artifact), tmp_path)
    assert decoded.returncode != 0
    assert vllm_says in decoded.stdout + decoded.stderr
