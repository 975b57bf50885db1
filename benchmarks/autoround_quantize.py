"""Quantises a model with the peer AutoRound. Runs inside .venvs/autoround, never imports llmopt.

    python autoround_quantize.py MODEL_DIR IDS.npy OUT_DIR
        [--bits 4] [--group-size 128] [--batch-size 8] [--iterations 20]

IDS.npy holds the calibration token ids, int64 [samples, seq_len]; AutoRound sees exactly these
rows. It learns the rounding by `iterations` steps of sign descent per block (its own default of 200
takes ten times as long) and writes the GPTQ format. The last line on stdout is one JSON object;
AutoRound's own log goes to stderr. Time and memory are
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
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--iterations", type=int, default=20)
    return parser.parse_args()


def quantize(args: argparse.Namespace, ids: np.ndarray) -> None:
    """Quantises and saves the model."""
    import torch  # noqa: PLC0415  (these read os.environ)
    from auto_round import AutoRound  # noqa: PLC0415
    from transformers import AutoTokenizer  # noqa: PLC0415

    rows = [
        {"input_ids": row[None], "attention_mask": torch.ones_like(row[None])}
        for row in torch.from_numpy(ids)
    ]
    rounding = AutoRound(
        str(args.model_dir),
        AutoTokenizer.from_pretrained(args.model_dir),
        bits=args.bits,
        group_size=args.group_size,
        dataset=rows,
        iters=args.iterations,
        seqlen=ids.shape[1],
        nsamples=len(ids),
        batch_size=args.batch_size,
        device_map="cpu",
    )
    export = args.out_dir.with_suffix(".export")  # AutoRound appends a folder name of its own
    rounding.quantize_and_save(output_dir=str(export), format="auto_gptq")
    (made,) = (path.parent for path in export.glob("**/config.json"))
    made.rename(args.out_dir)


def main() -> None:
    """Quantises one model and prints one JSON line."""
    args = parse_arguments()
    os.environ.update({k: v for k, v in ENVIRONMENT.items() if k not in os.environ})
    ids = np.load(args.ids)
    if ids.ndim != 2 or ids.dtype != np.int64:
        raise ValueError(f"{args.ids}: want int64 [samples, seq_len], got {ids.dtype} {ids.shape}")
    with contextlib.redirect_stdout(sys.stderr):
        quantize(args, ids)
        from auto_round import __version__  # noqa: PLC0415
    shape = {"samples": ids.shape[0], "seq_len": ids.shape[1]}
    print(json.dumps({"tool": f"autoround {__version__}", **shape}))


if __name__ == "__main__":
    main()
