"""Runs a process to its end and says what it took, whoever started it.

Linux hands a process's peak memory on: `ru_maxrss` of a child that exec'd out of a vfork, as
`subprocess` makes them, begins at its parent's peak (kernel/fork.c and fs/exec.c, exec_mmap: the
memory that is left behind counts). A benchmark that has held 1.5 GB thus reads 1.5 GB of
`python -c pass`. So a launcher, an interpreter of its own that holds next to nothing, forks and
waits: what it leaves behind, some 10 MB, is less than any interpreter takes.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

# Says the process's id on its first line and what it took on its second, on the given descriptor.
LAUNCHER = """
import os, sys, time
report = int(sys.argv[1])
start = time.perf_counter()
pid = os.fork()
if not pid:
    try:
        os.close(report)
        os.execvp(sys.argv[2], sys.argv[2:])
    except OSError as error:
        os.write(2, f"{sys.argv[2]}: {error}\\n".encode())
    os._exit(127)
os.write(report, b"%d\\n" % pid)
_, status, usage = os.wait4(pid, 0)
wall_s = time.perf_counter() - start
cpu_s = usage.ru_utime + usage.ru_stime
code = os.waitstatus_to_exitcode(status)
os.write(report, b"[%d, %r, %r, %d]" % (code, wall_s, cpu_s, usage.ru_maxrss * 1024))
"""
LOG_TAIL = 2000


@dataclass(frozen=True)
class Usage:
    """What a process took, with the children that it waited for and no others.

    Attributes:
        wall_s: From its start to its end.
        cpu_s: User and system time.
        peak_bytes: The largest resident memory of one of them.
    """

    wall_s: float
    cpu_s: float
    peak_bytes: int


class MeasuredProcess:
    """A process that has been started; `wait` within its `with` block for what it took.

    Attributes:
        pid: The process's own id.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        out: Path,
        log: Path,
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Starts it, with its standard output and error in files."""
        self._command = [os.fspath(part) for part in command]
        self._log = log
        read_end, write_end = os.pipe()
        self._report = os.fdopen(read_end, encoding="ascii")
        launcher = [sys.executable, "-I", "-S", "-c", LAUNCHER, str(write_end), *self._command]
        with out.open("wb") as out_file, log.open("wb") as log_file:
            self._launcher = subprocess.Popen(
                launcher,
                stdout=out_file,
                stderr=log_file,
                cwd=cwd,
                env=env,
                pass_fds=(write_end,),
            )
        os.close(write_end)
        self.pid = int(self._report.readline())

    def __enter__(self) -> "MeasuredProcess":
        return self

    def wait(self) -> Usage:
        """Waits for its end.

        Raises:
            RuntimeError: It failed; the end of its log is shown.
        """
        code, *took = json.loads(self._report.read())
        self._launcher.wait()
        if code:
            tail = self._log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:]
            raise RuntimeError(f"{self._command} ended with {code}:\n{tail}")
        return Usage(*took)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Ends what is still running, as after an interruption."""
        if self._launcher.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, 9)
            self._launcher.wait()
        self._report.close()
