"""Starts the real server on every planted mistake and every harmless change.

`python -m tests.triton.record_verdicts` writes server_verdicts.json, which tests and
docs/triton-checks.md read. Names as arguments record these alone. Takes about 4 s for each.
"""

import json
import sys
import tempfile
from pathlib import Path

from llmopt.triton.model_environment import make_environment
from tests.triton.judge import judge_mistake
from tests.triton.mistakes.harmless import HARMLESS
from tests.triton.mistakes.table import MISTAKES

VERDICTS = Path(__file__).parent / "server_verdicts.json"
PLANTED = (*MISTAKES, *HARMLESS)
REQUIREMENTS = ("jinja2", "onnxruntime", "tokenizers")


def record_verdicts(names: set[str]) -> None:
    """Judges mistakes and writes what the server said, in the table's order."""
    environment = make_environment(REQUIREMENTS, print)
    known = json.loads(VERDICTS.read_text(encoding="utf-8")) if VERDICTS.exists() else {}
    for mistake in PLANTED:
        if names and mistake.name not in names:
            continue
        with tempfile.TemporaryDirectory(prefix="llmopt-judge-") as folder:
            verdict = judge_mistake(mistake, Path(folder), environment)
        known[mistake.name] = verdict.as_dict()
        sys.stdout.write(f"{mistake.name}: {verdict.verdict}: {verdict.says}\n")
        sys.stdout.flush()
        ordered = {each.name: known[each.name] for each in PLANTED if each.name in known}
        text = json.dumps(ordered, ensure_ascii=False, indent=1)
        VERDICTS.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    record_verdicts(set(sys.argv[1:]))
