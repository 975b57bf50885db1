"""What transformers and the compressed-tensors library make of packed experts, in .venvs/vllm.

    python transformers_experts.py MODEL_DIR OUTPUT.safetensors

Writes every block's fused expert weights as they stand after loading: `BLOCK.gate_up` [E, 2F, D]
and `BLOCK.down` [E, D, F]. Never imports llmopt: it is the format's own library that reads.
"""

import sys
from pathlib import Path


def main(model_dir: Path, output: Path) -> None:
    """Loads a checkpoint, runs it once, so that it is decompressed, and writes its experts."""
    import torch  # noqa: PLC0415 - not needed to read this file's usage
    from safetensors.torch import save_file  # noqa: PLC0415
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.bfloat16).eval()
    with torch.inference_mode():
        logits = model(torch.arange(20)[None] + 5).logits
    assert bool(torch.isfinite(logits).all())
    tensors = {}
    for block, layer in enumerate(model.model.layers):
        tensors[f"{block}.gate_up"] = layer.mlp.experts.gate_up_proj.data.contiguous()
        tensors[f"{block}.down"] = layer.mlp.experts.down_proj.data.contiguous()
    save_file(tensors, output)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
