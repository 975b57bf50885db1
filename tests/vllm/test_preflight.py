"""Preflight refuses what the real vLLM refuses, and lets through what it serves."""

import dataclasses
import itertools
import json
import os
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.checkpoint.quant_plan import QuantPlan
from llmopt.serving.served_weights import ServedLayer, ServedWeights, Storage, describe_plan
from llmopt.steps.layer_overrides import LayerOverride, build_plan
from tests.models import REPOSITORY, make_model
from tests.quant.layers import make_options
from tests.quant.pipeline import quantize
from tests.serving.figures import LLAMA_8B, aim, refusal
from tests.vllm.proofs import (
    CONFIGURATIONS,
    KERNEL_GPUS,
    KERNEL_RULES,
    LOADS,
    MODELS,
    Load,
)
from tests.vllm.reference import write_dequantized
from tests.vllm.test_vllm import NUM_TOKENS, VLLM_PYTHON, assert_decodes_like, encode_prompts

SHAPES = (((4096, 4096), 1), ((4096, 11008), 1), ((4096, 11008), 4), ((4096, 4128), 1))
ROUNDED_RULES = re.compile(rf"\[(?:{'|'.join(KERNEL_RULES)})\]")

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.filterwarnings("default::tests.vllm.test_vllm.TieWarning"),
    pytest.mark.skipif(
        not VLLM_PYTHON.exists(), reason="needs the real vLLM: make vllm-env (llmopt doctor)"
    ),
]


def ask_vllm(script: str, request: Any, folder: Path, packages: Path | None = None) -> Any:
    """Runs a script of this folder in vLLM's environment, with more packages from a folder."""
    more = {} if packages is None else {"PYTHONPATH": str(packages)}
    (folder / "request.json").write_text(json.dumps(request))
    path = REPOSITORY / "tests" / "vllm" / script
    finished = subprocess.run(
        [VLLM_PYTHON, path, folder / "request.json", folder / "response.json"],
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
        env={**os.environ, **more},
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    return json.loads((folder / "response.json").read_text())


def plan_load(load: Load, model: Path) -> QuantPlan:
    overrides = [LayerOverride.model_validate(each) for each in load.overrides]
    config = Checkpoint.open(model).config
    return build_plan(config, load.scheme, overrides, lm_head=load.lm_head)


def write_artifact(load: Load, model: Path, folder: Path) -> Path:
    """Quantises a model as a proof wants it, on one thread: the work is small."""
    folder.mkdir()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    done = quantize(
        model,
        folder,
        options=make_options(),
        plan=plan_load(load, model),
        quant_format=load.quant_format,
    )
    torch.set_num_threads(threads)
    return done.folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    usual = {
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "head_dim": 64,
        "tie_word_embeddings": False,
    }
    return {name: make_model(folder / name, **{**usual, **c}) for name, c in MODELS.items()}


@pytest.fixture(scope="module")
def artifacts(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("artifacts")
    return {
        load.name: write_artifact(load, models[load.model], folder / load.name) for load in LOADS
    }


@pytest.fixture(scope="module")
def answers(
    artifacts: dict[str, Path], models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What vLLM made of every artifact, all loaded by one process."""
    request = {
        "models": {name: str(folder) for name, folder in artifacts.items()},
        "prompt_token_ids": encode_prompts(models["usual"]),
        "max_tokens": NUM_TOKENS,
        "dtype": "float16",
    }
    found: dict[str, Any] = ask_vllm("load_many.py", request, tmp_path_factory.mktemp("answers"))
    return found


@pytest.mark.parametrize("load", LOADS, ids=lambda load: load.name)
def test_preflight_and_vllm_on_a_cpu_agree(
    load: Load,
    models: dict[str, Path],
    artifacts: dict[str, Path],
    answers: dict[str, Any],
    tmp_path: Path,
) -> None:
    model, answer = models[load.model], answers[load.name]
    weights = describe_plan(
        Checkpoint.open(model).config, plan_load(load, model), load.quant_format
    )
    said = refusal(weights, aim(device="cpu"))
    if load.says is not None:
        assert load.says in str(answer["error"])
        assert f"[{load.rules[0]}]" in said
        return
    assert answer["error"] is None
    assert said == ""
    assert_decodes_like(write_dequantized(artifacts[load.name], tmp_path / "meant"), answer)


def test_preflight_and_vllms_configuration_agree(models: dict[str, Path], tmp_path: Path) -> None:
    names = {"tp": "tensor_parallel_size", "max_model_len": "max_model_len"}
    request = [
        {
            "model": str(models["usual"]),
            "skip_tokenizer_init": True,
            "hf_overrides": {"rope_parameters": each.rope} if each.rope else {},
            **{names[key]: value for key, value in each.target.items()},
        }
        for each in CONFIGURATIONS
    ]
    usual = Checkpoint.open(models["usual"]).config
    answers = ask_vllm("check_configs.py", request, tmp_path)
    for each, answer in zip(CONFIGURATIONS, answers, strict=True):
        raw = {**usual.raw, **({"rope_parameters": each.rope} if each.rope else {})}
        config = dataclasses.replace(usual, raw=raw)
        weights = describe_plan(config, build_plan(config, QuantScheme(4, 32)), "gptq")
        said = refusal(weights, aim(**each.target))
        if each.says is None:
            assert (answer, said) == (None, "")
        else:
            assert each.says in answer
            assert f"[{each.rule}]" in said


@cache
def one_layer(
    quant_format: Any, storage: Storage, scheme: QuantScheme | None, shape_OI: tuple[int, int]
) -> ServedWeights:
    """Describes a model of which only one layer matters."""
    layer = ServedLayer("model.layers.0.mlp.down_proj", shape_OI, storage, scheme, 1)
    config = dataclasses.replace(LLAMA_8B, vocab_size=64, max_position_embeddings=128)
    return ServedWeights(config, quant_format, (layer,))


def list_questions() -> Iterator[tuple[dict[str, Any], str]]:
    """Yields what vLLM is asked, and what preflight says to the same."""
    for gpu, (shape_OI, tp) in itertools.product(KERNEL_GPUS, SHAPES):
        target = aim(gpu=gpu, tp=tp)
        fixed = {"capability": KERNEL_GPUS[gpu], "shape_OI": shape_OI}
        fixed["shard_OI"] = (shape_OI[0], shape_OI[1] // tp)
        for quant_format, bits, sym, group_size in itertools.product(
            ("gptq", "compressed-tensors"), (2, 3, 4, 8), (True, False), (-1, 32, 64, 128)
        ):
            scheme = QuantScheme(bits, group_size, sym)
            question = {"format": quant_format, "bits": bits, "sym": sym, "group_size": group_size}
            said = refusal(one_layer(quant_format, "integer", scheme, shape_OI), target)
            # Machete does not look at groups on two GPUs: the scales are then cut wrongly.
            if gpu != "h100" or "[group-per-gpu]" not in said:
                yield {**fixed, **question}, said
        for storage in ("fp8", "int8"):
            weights = one_layer("compressed-tensors", storage, None, shape_OI)
            said = refusal(weights, target)
            # vLLM finds that its INT8 kernel is missing on Blackwell only as it runs.
            if "[int8-blackwell]" not in said:
                yield {**fixed, "format": storage}, said


def test_preflight_and_vllms_choice_of_kernels_for_cuda_agree(tmp_path: Path) -> None:
    """Nothing runs: vLLM's own rules of choice are asked, for every kind of GPU."""
    asked = list(list_questions())
    answers = ask_vllm("cuda_kernels.py", [question for question, _ in asked], tmp_path)
    differ = [
        (question, said, answer)
        for (question, said), answer in zip(asked, answers, strict=True)
        if bool(said) != answer.startswith("refused")
    ]
    assert differ == []
    assert {bool(said) for _, said in asked} == {True, False}
    refused_by = {rule for _, said in asked for rule in ROUNDED_RULES.findall(said)}
    assert refused_by == {f"[{rule}]" for rule in KERNEL_RULES}
    assert {answer for answer in answers if not answer.startswith("refused")} == {
        "MarlinLinearKernel",
        "MacheteLinearKernel",
        "CompressedTensorsW8A8Fp8",
        "CompressedTensorsW8A16Fp8",
        "CompressedTensorsW8A8Int8",
    }
