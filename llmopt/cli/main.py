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
    except Exception as error:  # noqa: BLE001 - the catch-all of the whole program
        _leave(_report(error))
    _leave(0)


def _report(error: Exception) -> int:
    """Prints an error and returns its exit code."""
    from llmopt.recipe.resources import explain_failure  # noqa: PLC0415 - seldom needed

    known = error if isinstance(error, LlmoptError) else explain_failure(error)
    if known is not None:
        sys.stderr.write(redact(f"{known.title}: {known}\n"))
        return known.exit_code
    sys.stderr.write(redact("".join(traceback.format_exception(error))))
    sys.stderr.write(
        "this is a bug in llmopt: please report it with the lines above and the output of "
        "`llmopt doctor`\n"
    )
    return EXIT_BUG


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    del signum, frame
    # A second signal must not end the farewell of the first with a traceback.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt_again)
    raise Interrupted


def _interrupt_again(signum: int, frame: FrameType | None) -> NoReturn:
    del signum, frame
    os._exit(EXIT_INTERRUPTED)


def _leave(code: int) -> NoReturn:
    """Ends the process at once: torch's threads need no farewell, output does."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
