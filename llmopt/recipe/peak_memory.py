"""The peak of this process's resident memory."""

import resource
from pathlib import Path

STATUS = Path("/proc/self/status")
PEAK_FIELD = "VmHWM:"  # in kB; see proc_pid_status(5)


def read_peak_bytes(status: Path = STATUS) -> int:
    """Returns the most bytes that this process was resident with.

    `ru_maxrss` would do, but Linux lets it begin at the peak of the process that started this
    one (fs/exec.c, exec_mmap); it is taken where the kernel tells nothing better.
    """
    if status.exists():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(PEAK_FIELD):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
