"""Makes the checkpoints of other tools in tests/peers/checkpoints/, which llmopt must read.

    python -m tests.peers.make_checkpoints [NAME ...]

Random Llamas of one or two blocks (`MODELS`) are quantised by GPTQModel, llm-compressor and
AutoRound, each in its own environment (made here where it lacks; `make gptqmodel-env` and so on),
on the same random token ids. A name begins with its tool's: `gptqmodel` alone means all of it. Of
each checkpoint tests/peers/checkpoints/NAME keeps config.json, model.safetensors,
quantize_config.json where the tool writes one, and expected.npz: what the tool itself makes of it
(`peer_reference.py`).

The stored folders are made once and kept in git; the tests read them and need none of the tools.
"""

import argparse
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from tests.models import REPOSITORY, make_model

CHECKPOINTS = Path(__file__).parent / "checkpoints"
TOOLS = ("gptqmodel", "llmcompressor", "autoround")
KEPT = ("config.json", "model.safetensors", "quantize_config.json", "expected.npz")
VOCAB_SIZE = 128
MODELS: dict[str, dict[str, Any]] = {
    "tied": {"num_hidden_layers": 2, "intermediate_size": 128},
    "untied": {"num_hidden_layers": 2, "intermediate_size": 256, "tie_word_embeddings": False},
    "short": {"num_hidden_layers": 1, "intermediate_size": 256},  # for 8 bits, to be small
}


def write_models(folder: Path) -> None:
    """Writes the plain models, the calibration ids and the ids of the logits."""
    for name, config in MODELS.items():
        make_model(folder / name, num_key_value_heads=1, vocab_size=VOCAB_SIZE, **config)
        for path in folder.glob(f"{name}/*token*"):
            path.unlink()
        write_tokenizer(folder / name)
    random = np.random.default_rng(0)
    np.save(folder / "calibration.npy", random.integers(3, VOCAB_SIZE, (16, 64)))
    np.save(folder / "ids.npy", random.integers(3, VOCAB_SIZE, (2, 12)))


def write_tokenizer(folder: Path) -> None:
    """Writes a tokenizer of as many words as the model has, which the tools insist on."""
    words = ["<unk>", "<s>", "</s>", *(f"w{index}" for index in range(3, VOCAB_SIZE))]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))  # noqa: S106
    tokenizer.pre_tokenizer = Whitespace()
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)


def run_tool(tool: str, models: Path, output: Path, names: list[str]) -> dict[str, str]:
    """Runs one tool's script in its environment; returns what it refused, by name."""
    subprocess.run(["bash", "environments/" + tool + ".sh"], cwd=REPOSITORY, check=True)
    python = REPOSITORY / ".venvs" / tool / "bin" / "python"
    script = Path(__file__).parent / f"quantize_with_{tool}.py"
    command = [python, script, models, output, *names]
    done = subprocess.run(command, cwd=output, check=True, stdout=subprocess.PIPE, text=True)
    refused: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return refused


def keep(made: Path) -> None:
    """Copies what the tests need of a checkpoint."""
    target = CHECKPOINTS / made.name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in KEPT:
        if (made / name).exists():
            shutil.copyfile(made / name, target / name)


def main() -> None:
    """Makes the named checkpoints, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    wanted = parser.parse_args().names or list(TOOLS)
    with tempfile.TemporaryDirectory() as name:
        models = Path(name) / "models"
        write_models(models)
        for tool in TOOLS:
            names = [name for name in wanted if name.startswith(tool)]
            if not names:
                continue
            output = Path(name) / tool
            output.mkdir()
            cases = [] if tool in names else names
            for case, reason in run_tool(tool, models, output, cases).items():
                print(f"{tool} refuses {case}: {reason}")  # noqa: T201
                shutil.rmtree(output / case, ignore_errors=True)
            for made in sorted(output.glob("*/expected.npz")):
                keep(made.parent)


if __name__ == "__main__":
    main()
