"""Quantises a model with the peer gptqmodel. Runs inside .venvs/gptqmodel, never imports llmopt.

    python gptqmodel_quantize.py MODEL_DIR IDS.npy OUT_DIR
        [--bits 4] [--group-size 128] [--desc-act] [--damp-percent 0.05] [--batch-size 1]

IDS.npy holds the calibration token ids, int64 [samples, seq_len]; gptqmodel sees exactly these
rows. What is not given stays at gptqmodel's default: symmetric, act-group-aware order (unless
--desc-act), true-sequential, disk offload. The last line on stdout is one JSON object; gptqmodel's
own log goes to stderr. Time and memory are
measured from outside, by gptq_peers.py.
"""

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path

import numpy as np

ENVIRONMENT = {
    "GPTQMODEL_CPU_WORKERS": "2",  # its loader asks for 2 and fails with the 1 it gives 2 cores
    "GPTQMODEL_TORCH_EXTENSIONS_DIR": str(Path(sys.prefix) / "torch_extensions"),
    "HF_HUB_OFFLINE": "1",
    "CUDA_VISIBLE_DEVICES": "",
}


def parse_arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model_dir", type=Path)
    parser.add_argument("ids", type=Path)
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--desc-act", action="store_true")
    parser.add_argument("--damp-percent", type=float, default=0.05)
    parser.add_argument("--batch-size", type=int, default=1)
    return parser.parse_args()


def load_calibration(path: Path) -> list[dict[str, list[int]]]:
    """Loads [samples, seq_len] token ids as gptqmodel's calibration rows, without padding."""
    ids = np.load(path)
    if ids.ndim != 2 or ids.dtype != np.int64:
        raise ValueError(f"{path}: want int64 [samples, seq_len], got {ids.dtype} {ids.shape}")
    return [{"input_ids": row, "attention_mask": [1] * len(row)} for row in ids.tolist()]


def quantize(args: argparse.Namespace, calibration: list[dict[str, list[int]]]) -> None:
    """Quantises and saves the model."""
    from gptqmodel import GPTQModel, QuantizeConfig, extension  # noqa: PLC0415  (reads os.environ)

    extension.load(name="pack_block_cpu")
    config = QuantizeConfig(
        bits=args.bits,
        group_size=args.group_size,
        damp_percent=args.damp_percent,
        **({"desc_act": True, "act_group_aware": False} if args.desc_act else {}),
    )
    model = GPTQModel.load(str(args.model_dir), config, device="cpu")
    model.quantize(calibration, batch_size=args.batch_size, calibration_data_min_length=0)
    model.save(str(args.out_dir))


def main() -> None:
    """Quantises one model and prints one JSON line."""
    args = parse_arguments()
    os.environ.update({k: v for k, v in ENVIRONMENT.items() if k not in os.environ})
    calibration = load_calibration(args.ids)
    with contextlib.redirect_stdout(sys.stderr):
        quantize(args, calibration)
        from gptqmodel import __version__  # noqa: PLC0415
    shape = {"samples": len(calibration), "seq_len": len(calibration[0]["input_ids"])}
    print(json.dumps({"tool": f"gptqmodel {__version__}", **shape}))


if __name__ == "__main__":
    main()
