"""The entry point: runs the app and turns every error into a message and an exit code."""

import os
import signal
import sys
import traceback
from io import TextIOWrapper
from types import FrameType
from typing import NoReturn

from llmopt.artifacts.secrets import redact
from llmopt.errors import EXIT_BUG, EXIT_INTERRUPTED, LlmoptError

INTERRUPTED_TEXT = "\ninterrupted; repeat the same command: what was finished is kept\n"
SHOW_CURSOR = "\x1b[?25h"
SWALLOWED_RETRY_S = 0.01


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM; not an Exception, so that nothing on the way swallows it."""


def main() -> NoReturn:
    """Runs the command line; the only place that catches everything."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, _interrupt)
    sys.unraisablehook = _interrupt_once_more
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal that knows no ✓ shows its code
            stream.reconfigure(errors="backslashreplace")
    try:
        from llmopt.cli.app import app  # noqa: PLC0415 - so that an interrupt here is handled too

        app(prog_name="llmopt")
    except SystemExit as ended:  # how the app says that it is done
        _leave(ended.code if isinstance(ended.code, int) else 0)
    except Interrupted:
        sys.stderr.write(INTERRUPTED_TEXT)
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
    """Unwinds to `main`; ends at once on a second signal, or inside an import.

    Libraries swallow what is raised in the middle of their imports, and go on with half a module.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt_again)
    if _is_importing(frame):
        _interrupt_again(signum, frame)
    raise Interrupted


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _interrupt_again(signum: int, frame: FrameType | None) -> NoReturn:
    """Ends at once, as safe as any kill; writes past buffers that may be in use."""
    del signum, frame
    os.write(2, (SHOW_CURSOR * os.isatty(2) + INTERRUPTED_TEXT).encode())
    os._exit(EXIT_INTERRUPTED)


def _interrupt_once_more(swallowed: "sys.UnraisableHookArgs") -> None:
    """Repeats an interrupt that Python swallowed in a destructor or a reference's callback."""
    if issubclass(swallowed.exc_type, Interrupted):
        signal.setitimer(signal.ITIMER_REAL, SWALLOWED_RETRY_S)
    else:
        sys.__unraisablehook__(swallowed)


def _leave(code: int) -> NoReturn:
    """Ends the process at once: torch's threads need no farewell, output does."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
