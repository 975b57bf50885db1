"""What is drawn on a real terminal (a pty): a bar, the time left, the current layer's error."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

from tests.models import REPOSITORY

CONTROLS = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def run_on_terminal(folder: Path, *arguments: str | Path) -> tuple[int, str]:
    """Runs llmopt with a terminal as its stderr; returns its exit code and all that was drawn."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "llmopt", *map(str, arguments)],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=slave,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "160", "TERM": "xterm"},
    )
    os.close(slave)
    drawn = b""
    while True:
        try:
            chunk = os.read(master, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not chunk:
            break
        drawn += chunk
    os.close(master)
    return process.wait(timeout=60), CONTROLS.sub("", drawn.decode("utf-8", "replace"))


def test_a_terminal_shows_blocks_time_left_and_error(
    tmp_path: Path, random_model: Path, documents: Path
) -> None:
    data = ("--data", documents, "--samples", "8", "--seq-len", "64", "--group-size", "32")
    code, drawn = run_on_terminal(tmp_path, "quantize", "gptq", random_model, "-o", "q", *data)
    assert code == 0, drawn
    assert re.search(r"quantize: quantising blocks .*\b[123]/3\b", drawn)
    assert re.search(r"\d:\d\d:\d\d", drawn)
    assert re.search(r"(down|up|gate|o|v)_proj \d+\.\d dB", drawn)
    assert re.search(r"✓ quantize: done in \d+\.\d s", drawn)
