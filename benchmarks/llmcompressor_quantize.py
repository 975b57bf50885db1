"""Quantises a model with the peer llm-compressor. Runs inside .venvs/llmcompressor, without llmopt.

    python llmcompressor_quantize.py MODEL_DIR IDS.npy OUT_DIR
        [--bits 4] [--group-size 128] [--batch-size 1]

IDS.npy holds the calibration token ids, int64 [samples, seq_len]; llm-compressor sees exactly these
rows, in this order. What is not given stays at its default: GPTQ, symmetric, actorder static,
dampening 0.01, block after block; lm_head is left out. The last line on stdout is
one JSON object; llm-compressor's own log goes to stderr. Time and memory are
measured from outside, by gptq_peers.py.
"""

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path

import numpy as np

ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}


def parse_arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model_dir", type=Path)
    parser.add_argument("ids", type=Path)
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=1)
    return parser.parse_args()


def load_calibration(path: Path) -> list[dict[str, list[int]]]:
    """Loads [samples, seq_len] token ids as rows of a data set, without padding."""
    ids = np.load(path)
    if ids.ndim != 2 or ids.dtype != np.int64:
        raise ValueError(f"{path}: want int64 [samples, seq_len], got {ids.dtype} {ids.shape}")
    return [{"input_ids": row, "attention_mask": [1] * len(row)} for row in ids.tolist()]


def quantize(args: argparse.Namespace, calibration: list[dict[str, list[int]]]) -> None:
    """Quantises and saves the model."""
    from datasets import Dataset  # noqa: PLC0415  (these read os.environ)
    from llmcompressor import oneshot  # noqa: PLC0415
    from llmcompressor.modifiers.gptq import GPTQModifier  # noqa: PLC0415
    from transformers import AutoTokenizer  # noqa: PLC0415

    weights = {
        "num_bits": args.bits,
        "type": "int",
        "symmetric": True,
        "strategy": "group",
        "group_size": args.group_size,
    }
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    oneshot(
        model=str(args.model_dir),
        tokenizer=AutoTokenizer.from_pretrained(args.model_dir),
        dataset=Dataset.from_list(calibration),
        recipe=GPTQModifier(config_groups=groups, ignore=["lm_head"]),
        batch_size=args.batch_size,
        max_seq_length=len(calibration[0]["input_ids"]),
        num_calibration_samples=len(calibration),
        shuffle_calibration_samples=False,
        output_dir=str(args.out_dir),
    )


def main() -> None:
    """Quantises one model and prints one JSON line."""
    args = parse_arguments()
    os.environ.update({k: v for k, v in ENVIRONMENT.items() if k not in os.environ})
    calibration = load_calibration(args.ids)
    with contextlib.redirect_stdout(sys.stderr):
        quantize(args, calibration)
        import torch  # noqa: PLC0415
        from llmcompressor import __version__  # noqa: PLC0415
    gpu_bytes = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0
    shape = {"samples": len(calibration), "seq_len": len(calibration[0]["input_ids"])}
    print(
        json.dumps({"tool": f"llmcompressor {__version__}", **shape, "gpu_peak_bytes": gpu_bytes})
    )


if __name__ == "__main__":
    main()
