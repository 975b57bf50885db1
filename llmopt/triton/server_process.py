"""Becomes tritonserver, which the kernel then ends when the process that started it is gone.

Run as a file, `python -I server_process.py PARENT_PID PROGRAM ARGUMENT…`, so that the models'
environment variables need no llmopt.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h; holds on through execve


def main() -> None:
    """Asks for SIGTERM at the parent's death, then runs the program in this process."""
    parent = int(sys.argv[1])
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before it could be asked
        sys.exit("the process that wanted a server is gone")
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - the process itself becomes the server


if __name__ == "__main__":
    main()
