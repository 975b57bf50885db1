"""docs/triton-checks.md: `python -m tests.triton.verdicts_page` prints it."""

import json
import sys
import tempfile
from collections import Counter
from pathlib import Path

from llmopt.triton.checks.repository_check import check_repository
from llmopt.triton.server_distribution import SERVER_RELEASE, SERVER_VERSION
from tests.triton.good_repositories import WRITERS
from tests.triton.mistakes.harmless import HARMLESS
from tests.triton.mistakes.planting import Mistake
from tests.triton.mistakes.table import MISTAKES, SECTIONS
from tests.triton.record_verdicts import VERDICTS

MEANINGS = {
    "refused": "it does not load it, and says so",
    "crashes": "the whole server ends",
    "hangs": "it waits for ever, or lets a request wait",
    "fails requests": "it loads it, and refuses requests",
    "answers wrongly": "it loads it and answers with status 200, wrongly, without a word",
    "serves": "it serves it; llmopt is stricter",
    "not judged": "it can't tell here, with the reason",
}
INTRODUCTION = f"""\
# Checks of Triton repositories

Written by `make reference` from planted mistakes and recorded verdicts; do not edit.

`llmopt verify REPOSITORY` judges a model repository, whoever made it, by its files: no server, GPU
or backend is needed. Each fault names file, field, value, what is allowed and what to do; the exit
code is then 8. Configs are judged as a server takes them that completes none
(`--disable-auto-complete-config`). What files alone do not tell (GPUs, an engine's insides, the
server's options) is listed as not checked.

Below, each mistake is planted on a small good repository, and stands beside what the real
tritonserver {SERVER_VERSION} ({SERVER_RELEASE}) made of it. The python backend is its own; backend
onnxruntime is a stand-in over onnxruntime's wheel, which repeats the real one's checks; backends
tensorrt and vllm are not in that server. A text is cut after 300 characters.

"""


def write_page() -> str:
    """Returns the whole page."""
    verdicts = json.loads(VERDICTS.read_text(encoding="utf-8"))
    counts = Counter(verdicts[mistake.name]["verdict"] for mistake in MISTAKES)
    parts = [
        INTRODUCTION,
        f"Of {len(MISTAKES)} mistakes, all of which llmopt names, the server:\n\n",
    ]
    parts += [f"- {name} {counts[name]}: {text}\n" for name, text in MEANINGS.items()]
    parts.append(
        f"\n{len(HARMLESS)} changes that are no mistakes are accepted by both "
        "(`tests/triton/mistakes/harmless.py`).\n"
    )
    for title, mistakes in SECTIONS.items():
        parts.append(f"\n## {title}\n\n| mistake | llmopt | tritonserver |\n|---|---|---|\n")
        parts += [_write_row(mistake, verdicts[mistake.name]) for mistake in mistakes]
    return "".join(parts)


def _write_row(mistake: Mistake, verdict: dict[str, str]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        WRITERS[mistake.base](Path(folder))
        mistake.plant(Path(folder))
        faults = map(str, check_repository(Path(folder)).faults)
        ours = next(fault for fault in faults if mistake.message in fault)
    cells = (mistake.name, ours, f"{verdict['verdict']}: {verdict['says']}")
    return f"| {' | '.join(map(_escape, cells))} |\n"


def _escape(cell: str) -> str:
    """Keeps a cell's signs from being read as Markdown, and line breaks out."""
    for sign in "\\|*_<`":
        cell = cell.replace(sign, f"\\{sign}")
    return " ".join(cell.split())


if __name__ == "__main__":
    sys.stdout.write(write_page())
