"""Make the tiny example model: corpus, tokenizer, training, files.

Usage: python make_model.py CACHE [--out FOLDER] [--steps N] [--minutes M]

CACHE keeps the downloaded packages. Needs `apt-get` (with a fresh `apt-get update`) and `dpkg`.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import corpus
import torch
from build_tokenizer import save_tokenizer, train_tokenizer
from tokenizers import Tokenizer
from torch import Tensor
from train import SEQUENCE, Settings, perplexity, round_to_nearest, train
from transformers import GenerationConfig, LlamaForCausalLM

HERE = Path(__file__).resolve().parent
SEED = 20240607
STEPS = 3000
LANGUAGES = ("ja", "en")
END = 2


def encode(tokenizer: Tokenizer, documents: list[corpus.Document]) -> list[Tensor]:
    """Token ids of each document, from `<s>` to `</s>`."""
    found = tokenizer.encode_batch([document.text for document in documents])
    return [torch.tensor([*one.ids, END], dtype=torch.int16) for one in found]


def corpus_facts(
    used: list[dict[str, str]], documents: list[corpus.Document], ids: list[Tensor]
) -> dict[str, Any]:
    """Which packages were used, and how many tokens of which language each gave."""
    by_package: dict[str, Counter[str]] = {facts["name"]: Counter() for facts in used}
    totals: Counter[str] = Counter()
    characters: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    for document, one in zip(documents, ids, strict=True):
        by_package[document.package][document.language] += len(one)
        totals[f"{document.split}_{document.language}"] += len(one)
        if document.split == "validation":
            characters[document.language] += len(document.text)
            tokens[document.language] += len(one) - 2  # without `<s>` and `</s>`
    density = {
        language: round(characters[language] / tokens[language], 3) for language in LANGUAGES
    }
    packages = [{**facts, "tokens": dict(by_package[facts["name"]])} for facts in used]
    return {
        "seed": SEED,
        "tokens": dict(sorted(totals.items())),
        "chars_per_token": density,
        "packages": packages,
    }


def measure(
    model: LlamaForCausalLM, documents: list[corpus.Document], ids: list[Tensor]
) -> dict[str, float]:
    """Validation perplexity per language."""
    result = {}
    for language in LANGUAGES:
        chosen = [
            one
            for document, one in zip(documents, ids, strict=True)
            if document.split == "validation" and document.language == language
        ]
        result[language] = round(perplexity(model, chosen), 3)
    return result


def save_model(model: LlamaForCausalLM, folder: Path) -> LlamaForCausalLM:
    """Write the bfloat16 weights and settings; returns the rounded model."""
    model = copy.deepcopy(model).to(torch.bfloat16).eval()
    model.config.dtype = torch.bfloat16
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=[2, 6], pad_token_id=2)
    model.save_pretrained(folder)
    return model


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write readable JSON that ends in a newline."""
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def publish(made: Path, out: Path) -> None:
    """Move the finished files into `out`, each at once."""
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(made.iterdir()):
        path.chmod(0o644)
        path.replace(out / path.name)


def build(cache: Path, made: Path, settings: Settings) -> None:
    """Do everything, into the folder `made`."""
    documents, used = corpus.load(cache, settings.seed)
    terms = (HERE / "apparel_terms.txt").read_text(encoding="utf-8").split()
    training = [document for document in documents if document.split == "train"]
    tokenizer = train_tokenizer([document.text for document in training], terms)
    save_tokenizer(tokenizer, made)
    ids = encode(tokenizer, documents)
    facts = corpus_facts(used, documents, ids)
    write_json(made / "corpus.json", facts)
    print(facts["tokens"], flush=True)

    material = [i for d, i in zip(documents, ids, strict=True) if d.split == "train"]
    model, done = train(material, settings)
    saved = save_model(model, made)
    report: dict[str, Any] = {
        "settings": vars(settings),
        "parameters": model.num_parameters(),
        **done,
        "tokens_trained": done["steps"] * settings.batch * SEQUENCE,
        "validation_perplexity": measure(saved, documents, ids),
    }
    round_to_nearest(saved)
    report["validation_perplexity_4bit_rtn_group128"] = measure(saved, documents, ids)
    write_json(made / "training.json", report)
    print(json.dumps(report, indent=2))


def main() -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("cache", type=Path, help="folder for the downloaded packages")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for the model's files")
    parser.add_argument("--steps", type=int, default=STEPS, help="optimiser steps")
    parser.add_argument("--minutes", type=float, default=0.0, help="limit on the training time")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.out) as folder:
        settings = Settings(seed=SEED, steps=arguments.steps, minutes=arguments.minutes)
        build(arguments.cache, Path(folder), settings)
        publish(Path(folder), arguments.out)


if __name__ == "__main__":
    main()
