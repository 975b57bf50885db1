"""What the three quantize_with_*.py scripts share; runs in a peer's environment, without llmopt.

MODELS_DIR holds the plain models `tied`, `untied` and `short`, `calibration.npy` (token ids,
int64 [N, T]) and `ids.npy` (int64 [B, T], what the logits are of).
"""

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM


def list_cases(cases: Iterable[str]) -> tuple[Path, Path, list[str]]:
    """Parses MODELS_DIR OUT_DIR [NAME ...]; without names, all cases."""
    known = list(cases)
    parser = argparse.ArgumentParser()
    parser.add_argument("models", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(known):
        parser.error(f"no case {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    return arguments.models, arguments.output, arguments.names or known


def make_cases(cases: Iterable[str], make_case: Callable[[Path, str, Path], None]) -> None:
    """Makes the cases that the command line names, or all; prints those that the peer refused.

    Args:
        cases: Every case there is.
        make_case: Makes one, from the folder of plain models, its name, and where it goes.
    """
    models, output, names = list_cases(cases)
    refused = {}
    with contextlib.redirect_stdout(sys.stderr):
        for name in names:
            try:
                make_case(models, name, output / name)
            except (ValueError, NotImplementedError) as error:
                refused[name] = f"{type(error).__name__}: {error}"
    print(json.dumps(refused))  # noqa: T201


def load_rows(models: Path) -> list[dict[str, list[int]]]:
    """Loads the calibration ids, one mapping a row, without padding."""
    ids_NT = np.load(models / "calibration.npy")
    return [{"input_ids": row, "attention_mask": [1] * len(row)} for row in ids_NT.tolist()]


def load_ids(models: Path) -> torch.Tensor:
    """Loads the ids [B, T] of the logits."""
    return torch.from_numpy(np.load(models / "ids.npy"))


def save_expected(
    models: Path,
    model_name: str,
    weights: Mapping[str, torch.Tensor],
    output: Path,
    rounded_logits: torch.Tensor | None = None,
) -> None:
    """Writes expected.npz: logits, and each layer's weight times a fixed vector.

    The logits are float32, of the plain model with the given layers' weights in place of its own:
    transformers' arithmetic on weights that the peer itself unpacked. `layer.NAME` is the weight
    [O, I] times cos(0), cos(1), .. [I], so that a test can say which layer differs.

    Args:
        models: The folder of plain models and ids.
        model_name: The plain model that was quantised.
        weights: Layer name -> float32 weight [O, I], for every layer that was quantised.
        output: The quantised checkpoint's folder.
        rounded_logits: Where layers round their inputs too, the logits with that.
    """
    model = AutoModelForCausalLM.from_pretrained(models / model_name, dtype=torch.float32).eval()
    if not weights:
        raise ValueError(f"{output}: nothing was quantised")
    products = {}
    for name, weight_OI in weights.items():
        module = model.get_submodule(name)
        assert module.weight.shape == weight_OI.shape
        module.weight = torch.nn.Parameter(weight_OI.float())
        vector_I = torch.arange(weight_OI.shape[1], dtype=torch.float64).cos()
        products[f"layer.{name}"] = (weight_OI.double() @ vector_I).float().numpy()
    ids_BT = load_ids(models)
    with torch.inference_mode():
        logits = model(ids_BT).logits.numpy()
    if rounded_logits is not None:
        products["rounded_logits"] = rounded_logits.numpy()
    np.savez_compressed(output / "expected.npz", ids=ids_BT.numpy(), logits=logits, **products)
