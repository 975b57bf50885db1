"""The real vLLM on CPU loads what llmopt writes and decodes what the integers mean."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from tests.conftest import RunCli
from tests.models import REPOSITORY, TINY_MODEL, make_model
from tests.vllm.reference import write_dequantized

VLLM_PYTHON = REPOSITORY / ".venvs" / "vllm" / "bin" / "python"
NUM_TOKENS = 32
TIE_LOGITS = 1e-2  # where the reference's two best logits lie this close, either may win
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
    pytest.mark.skipif(
        not VLLM_PYTHON.exists(), reason="needs the real vLLM: make vllm-env (llmopt doctor)"
    ),
]


def decode_in_vllm(model: Path, prompts: list[list[int]], folder: Path) -> dict[str, object]:
    """Decodes greedily in a vLLM process of its own."""
    request, response = folder / "request.json", folder / "response.json"
    request.write_text(json.dumps({"prompt_token_ids": prompts, "max_tokens": NUM_TOKENS}))
    script = REPOSITORY / "tests" / "vllm" / "greedy.py"
    finished = subprocess.run(
        [VLLM_PYTHON, script, model, request, response],
        capture_output=True,
        text=True,
        timeout=420,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    decoded: dict[str, object] = json.loads(response.read_text())
    return decoded


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


def assert_same_tokens(model: Path, dequantized: Path, decoded: dict[str, object]) -> None:
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
            assert distance <= TIE_LOGITS, f"token {position} differs at a distance of {distance}"
            print(f"tie: token {position} of {prompt[:6]}…: {mine} / {theirs}, {distance:.4f}")
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
        (("--format", "gptq", "--group-size", "64", "--desc-act"), "gptq"),
        (("--format", "compressed-tensors", "--bits", "8", "--group-size", "-1"), "compressed"),
        (("--format", "compressed-tensors", "--no-sym", "--group-size", "32"), "compressed"),
    ],
    ids=["gptq", "compressed-tensors", "gptq-desc-act", "w8-per-channel", "w4-asymmetric"],
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
    assert_same_tokens(artifact, dequantized, decoded)


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
    assert_same_tokens(artifact, dequantized, decoded)


def test_vllm_would_refuse_other_integers(tmp_path: Path, run_cli: RunCli) -> None:
    """The comparison can fail: a reference with another zero point gives other tokens."""
    artifact = tmp_path / "artifact"
    finished = run_cli("quantize", "gptq", TINY_MODEL, "-o", artifact)
    assert finished.returncode == 0, finished.stderr
    decoded = decode_in_vllm(artifact, encode_prompts(artifact), tmp_path)
    wrong = write_dequantized(artifact, tmp_path / "wrong", zero_shift=1)
    with pytest.raises(AssertionError, match=r"differs at a distance|neither of the best two"):
        assert_same_tokens(artifact, wrong, decoded)
