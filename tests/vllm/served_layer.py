"""One linear layer as the real vLLM serves it. Runs inside .venvs/vllm and never imports llmopt.

    python served_layer.py MODEL_DIR REQUEST.json RESPONSE.json

Request: as for greedy.py, and {"layer": str, "inputs": [[float, ...], ...]}, one row per token.
Response: {"outputs": [[float, ...], ...]}. A layer that vLLM fuses with others can't be asked for.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

from greedy import ENVIRONMENT, load_engine


def run_layer(model_dir: Path, request: dict[str, object]) -> list[list[float]]:
    """Loads the engine and passes the inputs through one of its layers."""
    import torch  # noqa: PLC0415 - vLLM reads its environment first
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory  # noqa: PLC0415

    engine = load_engine(model_dir, request)
    inputs = torch.tensor(request["inputs"], dtype=getattr(torch, request["dtype"]))

    def compute(model: torch.nn.Module) -> torch.Tensor:
        with torch.inference_mode():
            output = model.get_submodule(request["layer"])(inputs)
        return output[0] if isinstance(output, tuple) else output

    (outputs,) = engine.apply_model(compute)
    del engine
    cleanup_dist_env_and_memory()
    return outputs.float().tolist()


def main(model_dir: Path, request_path: Path, response_path: Path) -> None:
    """Reads the request, computes it and writes the response."""
    os.environ.update({k: v for k, v in ENVIRONMENT.items() if k not in os.environ})
    os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"  # the function is our own
    request = json.loads(request_path.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as scratch:
        tempfile.tempdir = scratch  # vLLM leaves its rendezvous file behind
        outputs = run_layer(model_dir, request)
    response_path.write_text(json.dumps({"outputs": outputs}), encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
