"""Greedy decoding by transformers with the compressed-tensors library, inside .venvs/vllm.

    python transformers_greedy.py MODEL_DIR REQUEST.json RESPONSE.json

Request and response are those of greedy.py, of the log probabilities the chosen token's alone.
Never imports llmopt: it is the format's own library that reads the checkpoint.
"""

import json
import sys
from pathlib import Path
from typing import Any


def main(model_dir: Path, request_path: Path, response_path: Path) -> None:
    """Decodes one request with one checkpoint and writes the response."""
    import torch  # noqa: PLC0415 - not needed to read this file's usage
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    request: dict[str, Any] = json.loads(request_path.read_text(encoding="utf-8"))
    dtype = getattr(torch, request["dtype"])
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=dtype).eval()
    token_ids, logprobs = [], []
    with torch.inference_mode():
        for prompt in request["prompt_token_ids"]:
            ids, past, tokens, scores = torch.tensor([prompt]), None, [], []
            for _ in range(request["max_tokens"]):
                output = model(ids, past_key_values=past, use_cache=True)
                past = output.past_key_values
                best = output.logits[0, -1].log_softmax(-1).max(-1)
                tokens.append(int(best.indices))
                scores.append([[int(best.indices), float(best.values)]])
                ids = best.indices[None, None]
            token_ids.append(tokens)
            logprobs.append(scores)
    response = {"token_ids": token_ids, "logprobs": logprobs}
    response_path.write_text(json.dumps(response), encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
