"""model.json of vllm repositories, read by the real vLLM's own parser as Triton's backend does."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmopt.triton.repository import ServingOptions
from llmopt.triton.vllm_repository import require_bitsandbytes, write_vllm
from tests.conftest import RunCli
from tests.vllm.test_preflight import ask_vllm
from tests.vllm.test_vllm import VLLM_PYTHON

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        not VLLM_PYTHON.exists(), reason="needs the real vLLM: make vllm-env (llmopt doctor)"
    ),
]
ENGINE_ARGS: dict[str, Any] = {"max_model_len": 128, "max_num_seqs": 4, "enforce_eager": True}


def write_repository(folder: Path, checkpoint: Path, arguments: dict[str, Any]) -> Path:
    """Writes a repository for a server that mounts it where it lies; returns its model.json."""
    folder.mkdir()
    options = ServingOptions("apparel", 1, "latest", "cuda")
    write_vllm(folder, checkpoint, arguments, options, str(folder))
    return folder / "apparel" / "1" / "model.json"


def install(requirement: str, folder: Path) -> Path:
    """Puts one package into a folder, without what it depends on; vLLM is there already."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    done = subprocess.run([*command, folder, requirement], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_vllm_takes_what_is_written(run_cli: RunCli, random_model: Path, tmp_path: Path) -> None:
    made = {
        "gptq": ("rtn", "--group-size", "32"),
        "compressed-tensors": ("rtn", "--group-size", "32", "--format", "compressed-tensors"),
        "nf4": ("nf4",),
    }
    files = []
    for name, arguments in made.items():
        done = run_cli("quantize", arguments[0], random_model, "-o", name, *arguments[1:])
        assert done.returncode == 0, done.stderr
        files.append(write_repository(tmp_path / f"{name}-repo", tmp_path / name, ENGINE_ARGS))
    unknown = {**ENGINE_ARGS, "max_model_length": 128}
    files.append(write_repository(tmp_path / "unknown", tmp_path / "gptq", unknown))
    too_long = {**ENGINE_ARGS, "max_model_len": 100_000}
    files.append(write_repository(tmp_path / "too-long", tmp_path / "gptq", too_long))
    answers = ask_vllm("check_engine_args.py", [str(file) for file in files], tmp_path)
    for answer, file, quantization in zip(
        answers, files, ("gptq", "compressed-tensors"), strict=False
    ):
        assert "error" not in answer, answer
        assert quantization in answer["quantization"].replace("auto_gptq", "gptq")
        assert answer["max_model_len"] == 128
        assert Path(answer["model"]) == file.parent / "checkpoint"
    # vLLM's core holds bitsandbytes no longer; the repository names the plugin that does.
    assert "bitsandbytes" in answers[2]["error"]
    plugin = require_bitsandbytes("0.32.0")
    assert plugin == "vllm-bnb-plugin==0.0.3"
    (with_plugin,) = ask_vllm(
        "check_engine_args.py", [str(files[2])], tmp_path, install(plugin, tmp_path / "plugin")
    )
    assert "error" not in with_plugin, with_plugin
    assert with_plugin["quantization"] == "bitsandbytes"
    assert "unexpected keyword argument 'max_model_length'" in answers[3]["error"]
    assert "max_model_len" in answers[4]["error"]
