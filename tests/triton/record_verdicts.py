"""Starts the real server on every planted mistake and every harmless change.

`python -m tests.triton.record_verdicts` writes server_verdicts.json, which tests and
docs/triton-checks.md read. Names as arguments record these alone; `--stale` those whose plant is
another than the one that was judged. Takes about 4 s for each.
"""

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from llmopt.triton.model_environment import make_environment
from tests.triton.judge import judge_mistake
from tests.triton.mistakes.harmless import HARMLESS
from tests.triton.mistakes.planting import Mistake
from tests.triton.mistakes.table import MISTAKES
from tests.triton.planted_files import digest_plant

VERDICTS = Path(__file__).parent / "server_verdicts.json"
PLANTED = (*MISTAKES, *HARMLESS)
REQUIREMENTS = ("jinja2", "onnxruntime", "tokenizers")


def record_verdicts(planted: Sequence[Mistake]) -> None:
    """Judges mistakes and writes what the server said, in the table's order."""
    environment = make_environment(REQUIREMENTS, print)
    known = read_verdicts()
    for mistake in planted:
        with tempfile.TemporaryDirectory(prefix="llmopt-judge-") as folder:
            verdict = judge_mistake(mistake, Path(folder), environment)
        known[mistake.name] = {**verdict.as_dict(), "planted": find_digest(mistake)}
        sys.stdout.write(f"{mistake.name}: {verdict.verdict}: {verdict.says}\n")
        sys.stdout.flush()
        ordered = {each.name: known[each.name] for each in PLANTED if each.name in known}
        text = json.dumps(ordered, ensure_ascii=False, indent=1)
        VERDICTS.write_text(text + "\n", encoding="utf-8")


def read_verdicts() -> dict[str, dict[str, str]]:
    """Returns what was recorded: name → verdict, the server's words, the plant's digest."""
    if not VERDICTS.exists():
        return {}
    recorded: dict[str, dict[str, str]] = json.loads(VERDICTS.read_text(encoding="utf-8"))
    return recorded


def find_digest(mistake: Mistake) -> str:
    """Returns the digest of a mistake's plant."""
    with tempfile.TemporaryDirectory(prefix="llmopt-plant-") as folder:
        return digest_plant(mistake, Path(folder))


def is_stale(mistake: Mistake, recorded: Mapping[str, Mapping[str, str]]) -> bool:
    """Tells whether a mistake has no verdict, or that of another plant."""
    return recorded.get(mistake.name, {}).get("planted") != find_digest(mistake)


def choose_planted(arguments: Sequence[str]) -> list[Mistake]:
    """Returns those that the arguments name; without any, all."""
    if "--stale" in arguments:
        recorded = read_verdicts()
        return [mistake for mistake in PLANTED if is_stale(mistake, recorded)]
    return [mistake for mistake in PLANTED if not arguments or mistake.name in arguments]


if __name__ == "__main__":
    record_verdicts(choose_planted(sys.argv[1:]))
