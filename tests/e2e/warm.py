"""A warm llmopt: a process that has imported torch, and forks a real run for every request.

A run that dies at a chosen place takes 0.3 s this way instead of 4 s. Requests come as JSON
lines on stdin, replies go out as JSON lines on stdout:

    {"arguments": [...], "folder": "...", "environment": {...}, "die_at": 17 or null}
    {"code": -9, "stderr": "...", "changes": ["os.rename .../journal.json", ...]}

`die_at` is the number of the change to the file system (opening to write, renaming, removing,
making a folder or a link) before which the run gets SIGKILL. Python's audit hooks tell of them.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import Any, BinaryIO

from tests.e2e.workplace import Job, Workplace
from tests.models import REPOSITORY

CHANGES = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.symlink", "os.link"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass(frozen=True)
class Ended:
    """How a run ended: exit code, stderr, and the changes that it made or was about to make."""

    code: int
    stderr: str
    changes: list[str]


class WarmLlmopt:
    """The client's side."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.warm"],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def run(self, place: Workplace, job: Job, die_at: int | None = None) -> Ended:
        """Runs a job to its end, or to the chosen change."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        request = {
            "arguments": job.arguments,
            "folder": str(place.folder),
            "environment": place.environment(),
            "die_at": die_at,
        }
        self._server.stdin.write(json.dumps(request).encode() + b"\n")
        self._server.stdin.flush()
        return Ended(**json.loads(self._server.stdout.readline()))

    def close(self) -> None:
        """Ends the server."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.stdout.close()
        assert self._server.wait(60) == 0


def _serve() -> None:
    import torch  # noqa: PLC0415 - the client, which is pytest, has no use for the warmth
    from transformers.models.llama import modeling_llama  # noqa: F401, PLC0415

    import llmopt.steps.quantize_run  # noqa: F401, PLC0415
    from llmopt.cli import app  # noqa: F401, PLC0415

    torch.set_num_threads(1)
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    for line in sys.stdin:
        replies.write(json.dumps(_run(json.loads(line))).encode() + b"\n")


def _run(request: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryFile() as stderr, tempfile.TemporaryFile() as changes:
        child = os.fork()
        if child == 0:
            _become_llmopt(request, stderr.fileno(), changes.fileno())
        _, status = os.waitpid(child, 0)
        return {
            "code": os.waitstatus_to_exitcode(status),
            "stderr": _read(stderr),
            "changes": _read(changes).splitlines(),
        }


def _read(file: BinaryIO | Any) -> str:
    file.seek(0)
    text: str = file.read().decode()
    return text


def _become_llmopt(request: dict[str, Any], stderr: int, changes: int) -> None:
    from llmopt.cli.main import main  # noqa: PLC0415

    os.chdir(request["folder"])
    os.environ.update(request["environment"])
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(stderr, 1)
    os.dup2(stderr, 2)
    _watch(request["folder"], request["die_at"], changes)
    sys.argv = ["llmopt", *request["arguments"]]
    main()


def _watch(folder: str, die_at: int | None, log: int) -> None:
    count = 0

    def hear(event: str, given: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in CHANGES or (event == "open" and not given[2] & WRITING):
            return
        path = os.fsdecode(given[0]) if not isinstance(given[0], int) else ""
        if path.startswith("/") and not path.startswith(folder):
            return
        count += 1
        target = os.fsdecode(given[1]) if event == "os.rename" else path
        os.write(log, f"{event} {target.removeprefix(folder)}\n".encode())
        if count == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hear)


if __name__ == "__main__":
    _serve()
