"""The entry point: runs the app and turns every error into a message and an exit code."""

import os
import signal
import sys
import traceback
from types import FrameType
from typing import NoReturn

from llmopt.artifacts.secrets import redact
from llmopt.errors import EXIT_BUG, EXIT_INTERRUPTED, LlmoptError


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM; not an Exception, so that nothing on the way swallows it."""


def main() -> NoReturn:
    """Runs the command line; the only place that catches everything."""
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        from llmopt.cli.app import app  # noqa: PLC0415 - so that an interrupt here is handled too

        app(prog_name="llmopt")
    except Interrupted:
        sys.stderr.write("\ninterrupted; repeat the same command to go on where it stopped\n")
        _leave(EXIT_INTERRUPTED)
    except LlmoptError as error:
        sys.stderr.write(redact(f"{error.title}: {error}\n"))
        _leave(error.exit_code)
    except Exception:  # noqa: BLE001 - the catch-all of the whole program
        sys.stderr.write(redact(traceback.format_exc()))
        sys.stderr.write(
            "this is a bug in llmopt: please report it with the lines above and the output of "
            "`llmopt doctor`\n"
        )
        _leave(EXIT_BUG)
    _leave(0)


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    del signum, frame
    raise Interrupted


def _leave(code: int) -> NoReturn:
    """Ends the process at once: torch's threads need no farewell, output does."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
