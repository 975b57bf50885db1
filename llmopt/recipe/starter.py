"""Writes a first recipe for a model: quantise with the apparel set, then gate."""

import json
import os
from pathlib import Path

from llmopt.artifacts.files import make_folder
from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.errors import IncompatibleError, RecipeError
from llmopt.recipe.inputs import validate_recipe
from llmopt.recipe.loader import load_recipe
from llmopt.steps.layer_overrides import build_plan
from llmopt.steps.quantize_fields import check_shapes

SCHEMA_HINT = "# `llmopt schema > recipe-v1.json` gives editors the schema of this file.\n"
MAX_SEQ_LEN = 512


def write_starter_recipe(model: Path, output: Path) -> None:
    """Writes a recipe that validates.

    Raises:
        InputError: The model can't be quantised.
        RecipeError: The output file exists already.
    """
    if output.exists():
        raise RecipeError(f"{output} exists already", remedy="name another file with -o")
    checkpoint = Checkpoint.open(model)
    checkpoint.require_unquantized()
    checkpoint.require_tokenizer()
    group_size = _choose_group_size(checkpoint)
    seq_len = min(MAX_SEQ_LEN, checkpoint.config.max_position_embeddings)
    text = _TEMPLATE.format(
        hint=SCHEMA_HINT,
        name=_safe_name(model),
        model=json.dumps(_relative_path(model, output.parent), ensure_ascii=False),
        seq_len=seq_len,
        group_size=group_size,
    )
    make_folder(output.parent)
    output.write_text(text, encoding="utf-8")
    try:
        validate_recipe(load_recipe(output))
    except BaseException:
        output.unlink()
        raise


def _choose_group_size(checkpoint: Checkpoint) -> int:
    """Takes the largest usual group that divides every layer's input, else one per channel."""
    for group_size in (128, 64, 32):
        try:
            plan = build_plan(checkpoint.config, QuantScheme(4, group_size))
            check_shapes(checkpoint.config, plan, "gptq")
        except IncompatibleError:
            continue
        return group_size
    return -1


def _safe_name(model: Path) -> str:
    kept = [c if c.isascii() and (c.isalnum() or c in "_.-") else "-" for c in model.resolve().name]
    return "".join(kept).strip("-._")[:60] or "model"


def _relative_path(model: Path, base: Path) -> str:
    path = os.path.relpath(model.resolve(), base.resolve())
    return path if path.startswith(".") else f"./{path}"


_TEMPLATE = """\
{hint}version: 1
name: {name}-gptq

sources:
  base: {model}

datasets:
  calibration: {{set: apparel-ja, samples: 64, seq_len: {seq_len}}}
  heldout: {{set: apparel-ja, split: heldout}}

steps:
  quantize:
    uses: quantize.gptq
    model: base
    data: calibration
    bits: 4
    group_size: {group_size}
  gate:
    uses: eval.gate
    model: quantize
    baseline: base
    data: heldout
    # Set these from a first run's figures: llmopt run prints them, whatever the verdict.
    require:
      kl_mean: {{max: 0.05}}
      perplexity: {{max_increase_pct: 3.0}}
"""
