"""How a command ends: its exit code, the one line of an error, and the signals that end it early."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from typing import Any, Final

from pydump.cli.console import silence_stdout, tell
from pydump.cli.session import session
from pydump.errors import Cancelled, PydumpError

#: Exit codes that no error carries.
EXIT_INCOMPLETE: Final = 3
EXIT_DIFFERS: Final = 4
EXIT_INTERRUPTED: Final = 130
#: What to add to errors of the operating system that concern none of our files.
_OS_HINTS: Final = {errno.EMFILE: "; raise the limit with ulimit -n", errno.EBADF: ": standard output is closed"}


def fail(message: str, code: int) -> int:
    """Print an error on one line; returns ``code``."""
    tell("pydump: error: " + " ".join(message.split()))
    return code


def exit_code_of(work: Callable[[], int]) -> int:
    """Do ``work``, print the error that ends it, if any, and return the exit code."""
    try:
        return work()
    except PydumpError as error:
        return fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return fail(f"interrupted{session.lost}", EXIT_INTERRUPTED)
    except BrokenPipeError:
        silence_stdout()
        return 1
    except MemoryError:
        return fail("out of memory", 1)
    except OSError as error:  # of the standard streams and the process's limits; files have their own errors
        hint = _OS_HINTS.get(error.errno or 0, "")
        return fail(f"{error.strerror}{f': {error.filename}' if error.filename else ''}{hint}", 1)
    except ImportError as error:  # NumPy wraps what the loader says in a page of advice
        root: BaseException = error
        while root.__cause__ is not None:
            root = root.__cause__
        return fail(f"cannot load a library: {root}", 1)
    except Exception as error:  # a bug: still one line, unless someone is looking for it
        if os.environ.get("PYDUMP_DEBUG"):
            raise
        return fail(f"internal error: {type(error).__name__}: {error}; set PYDUMP_DEBUG=1 for the traceback", 1)


def handle_signals() -> None:
    """From here on a signal undoes what was begun, before the process ends."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminated)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _interrupted)


def _interrupted(number: int, frame: Any) -> None:
    if not session.written:
        raise KeyboardInterrupt


def _terminated(number: int, frame: Any) -> None:
    if session.written:  # it is done: to say otherwise would be wrong
        return
    raise Cancelled(f"ended by {signal.Signals(number).name}{session.lost}")
