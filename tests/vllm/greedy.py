"""Greedy decoding by the real vLLM on CPU. Runs inside .venvs/vllm and never imports llmopt.

    python greedy.py MODEL_DIR REQUEST.json RESPONSE.json

Request: {"prompt_token_ids": [[int, ...], ...], "max_tokens": 32, "dtype": "float16"}, the last
being what is computed in, "auto" for the checkpoint's own. End-of-sequence tokens are ignored, so
every prompt yields exactly `max_tokens` tokens. No tokenizer is needed.

Response: {"token_ids": [[int, ...], ...],       one list per prompt, in the request's order
           "logprobs": [[[[token_id, natural log], [token_id, natural log]], ...], ...],
                                                 the two likeliest per position, best first
           "vllm_version": str,
           "quantization": str | null,           vLLM's name: "auto_gptq", "compressed-tensors"
           "load_s": float}                      seconds from the checkpoint to a ready engine

A checkpoint that vLLM refuses, or that decodes to NaN (vLLM loads some broken ones), ends in a
traceback on stderr and exit status 1; no response is written then. The engine lives in this
process (gloo's group of one listens on loopback while it runs): no server, nothing left behind.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from vllm import LLM, RequestOutput

ENVIRONMENT = {
    "GLOO_SOCKET_IFNAME": "lo",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",  # the steps of tiny models are too small to share out
    "VLLM_CACHE_ROOT": str(Path(sys.prefix) / "cache"),
    "VLLM_CONFIG_ROOT": str(Path(sys.prefix) / "config"),
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    # By default vLLM runs 4-bit weights with int8 activations on CPUs that have AMX.
    "VLLM_CPU_INT4_W4A8": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}


class Request(TypedDict):
    """What to decode."""

    prompt_token_ids: list[list[int]]
    max_tokens: int
    dtype: str


def load_engine(model_dir: Path, request: Request) -> "LLM":
    """Starts vLLM in this process, with room for the request's longest sequence only."""
    from vllm import LLM  # noqa: PLC0415  (reads its environment at import)

    prompts = request["prompt_token_ids"]
    return LLM(
        str(model_dir),
        dtype=request["dtype"],
        skip_tokenizer_init=True,
        enforce_eager=True,
        max_model_len=max(map(len, prompts)) + request["max_tokens"],
        max_num_seqs=len(prompts),
        enable_prefix_caching=False,
        generation_config="vllm",
    )


def decode_greedily(engine: "LLM", request: Request) -> list["RequestOutput"]:
    """Decodes all prompts at temperature 0 with the two likeliest tokens per position."""
    from vllm import SamplingParams  # noqa: PLC0415

    sampling = SamplingParams(
        temperature=0,
        max_tokens=request["max_tokens"],
        logprobs=2,
        ignore_eos=True,
        detokenize=False,
    )
    prompts = [{"prompt_token_ids": ids} for ids in request["prompt_token_ids"]]
    return engine.generate(prompts, sampling, use_tqdm=False)


def list_top_two(output: "RequestOutput") -> list[list[tuple[int, float]]]:
    """Lists [[token id, log probability], ...] of the two likeliest tokens per position."""
    return [
        sorted(((t, p.logprob) for t, p in position.items()), key=lambda pair: -pair[1])[:2]
        for position in output.outputs[0].logprobs
    ]


def run(model_dir: Path, request: Request) -> dict[str, object]:
    """Decodes one request with one checkpoint and returns the response."""
    import vllm  # noqa: PLC0415
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory  # noqa: PLC0415

    started = time.perf_counter()
    engine = load_engine(model_dir, request)
    load_s = time.perf_counter() - started
    outputs = decode_greedily(engine, request)
    quantization = engine.llm_engine.vllm_config.model_config.quantization
    del engine
    cleanup_dist_env_and_memory()
    return {
        "token_ids": [list(output.outputs[0].token_ids) for output in outputs],
        "logprobs": [list_top_two(output) for output in outputs],
        "vllm_version": vllm.__version__,
        "quantization": quantization,
        "load_s": round(load_s, 3),
    }


def main(model_dir: Path, request_path: Path, response_path: Path) -> None:
    """Reads the request, decodes it and writes the response."""
    os.environ.update({k: v for k, v in ENVIRONMENT.items() if k not in os.environ})
    request: Request = json.loads(request_path.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as scratch:
        tempfile.tempdir = scratch  # vLLM leaves its rendezvous file behind
        response = run(model_dir, request)
    response_path.write_text(json.dumps(response, allow_nan=False), encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
