"""The table of all preflight rules: `python -m llmopt.serving.rules_table` prints the page."""

import inspect
import sys

from llmopt.serving.gpus import list_gpus
from llmopt.serving.preflight import RULES
from llmopt.serving.rule import Rule, rule_name

PROOFS = {
    "cpu": "the real vLLM on CPU loads what fits and refuses what does not",
    "cpu (configuration)": "the real vLLM accepts and refuses the configuration, without engine",
    "kernel choice": "the real vLLM's choice of a kernel for CUDA, asked on a CPU; none ran",
    "source": "read in the source, not run here",
}
INTRODUCTION = """\
# Serving preflight

Written by `make reference` from the rules in `llmopt/serving`; do not edit.

A recipe's `target` (runtime, device, gpu, tp, max_model_len, concurrency) decides before any work
whether the planned artifact could be served, from config.json's figures alone: `llmopt validate`
and `run` end with exit code 7 and name each broken rule, the value, what is allowed and a setting
to change. Without `target` nothing is refused. Group sizes need no rule: vLLM takes -1, 32,
64 and 128, and recipes know no others.

vLLM means 0.32; file names are of its source, under `vllm/model_executor/` where no other place is
named. Its CUDA build pads shapes that are no multiple of its tiles of 64 x 128 (slower, but served:
`marlin_padded_nk`); releases before that refused them.

For onnxruntime and tensorrt only what has no form there is refused. Asymmetric grids and act-order
have an exact one (measured: within 7e-6, and TensorRT-RTX 1.7 builds it), as have mixed layers, a
quantised lm_head, and 2 and 3 bits, which lie in 4; 4 bits per channel and 8 bits per group build
too, but lie expanded in engines.

Whether a CPU has AMX, which vLLM's kernel for packed experts needs, no recipe says: it is not
judged.

How a rule was proven:

"""
GPUS = """
## GPUs

`gpu` is one of these names or a usual other one (case, spaces and the maker's name do not count;
`a100` alone is the one of 40 GB, `v100` that of 16 GB). Memory and capability are nominal,
entered without the data sheets at hand; vLLM takes 0.92 of the memory by default.

| gpu | compute capability | memory, GiB |
|---|---|---|
"""


def write_table() -> str:
    """Returns the whole page."""
    parts = [INTRODUCTION]
    parts += [f"- {name}: {meaning}\n" for name, meaning in PROOFS.items()]
    parts.append("\n| rule | says | holds for | source | proof |\n|---|---|---|---|---|\n")
    rules = dict.fromkeys(rule for rules in RULES.values() for rule in rules)
    parts += [_write_row(rule) for rule in rules]
    parts.append(GPUS)
    parts += [f"| {gpu.name} | {gpu.capability / 10} | {gpu.memory_gib} |\n" for gpu in list_gpus()]
    return "".join(parts)


def read_entry(rule: Rule) -> dict[str, str]:
    """Returns a rule's entry: what it says, and `For`, `Source` and `Proof`."""
    paragraphs = [" ".join(text.split()) for text in (inspect.getdoc(rule) or "").split("\n\n")]
    entry = {"says": paragraphs[0]}
    for text in paragraphs[1:]:
        heading, separator, body = text.partition(": ")
        if separator and heading in ("For", "Source", "Proof"):
            entry[heading] = body
        else:
            entry["says"] += f" {text}"
    return entry


def _write_row(rule: Rule) -> str:
    entry = read_entry(rule)
    cells = (f"`{rule_name(rule)}`", *(entry[key] for key in ("says", "For", "Source", "Proof")))
    return f"| {' | '.join(_escape(cell) for cell in cells)} |\n"


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|").replace("*", "\\*")


if __name__ == "__main__":
    sys.stdout.write(write_table())
