"""How a command ends: its exit code, the one line of an error, and the signals that end it early."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, Final

from pydump.cli.console import silence_stdout, tell
from pydump.cli.session import session
from pydump.errors import Cancelled, PydumpError

#: Exit codes that no error carries.
EXIT_INCOMPLETE: Final = 3
EXIT_DIFFERS: Final = 4
EXIT_INTERRUPTED: Final = 130
#: What a shell says of a program that SIGPIPE ended, because nobody reads its output any more.
EXIT_BROKEN_PIPE: Final = 128 + signal.SIGPIPE
#: What to add to errors of the operating system that concern none of our files.
_OS_HINTS: Final = {errno.EMFILE: "; raise the limit with ulimit -n", errno.EBADF: ": standard output is closed"}


def complain(message: str, hint: str | None = None) -> None:
    """Print an error on one line of standard error."""
    tell("pydump: error: " + " ".join(f"{message}; {hint}".split() if hint else message.split()))


def fail(message: str, code: int, hint: str | None = None) -> int:
    """Print the error that ends a command, with ``--json`` also as an object on standard output; returns ``code``.

    Where standard output is data, nothing is added to it.
    """
    complain(message, hint)
    if session.json and not session.stdout_is_data:
        with contextlib.suppress(OSError, ImportError, MemoryError):
            from pydump.cli.render import print_json

            print_json(error_object(message, code, hint))
            sys.stdout.flush()
    return code


def error_object(message: str, code: int, hint: str | None) -> dict[str, Any]:
    """What JSON has of an error."""
    return {"error": message, "hint": hint, "exit_code": code}


def exit_code_of(work: Callable[[], int]) -> int:
    """Do ``work``, print the error that ends it, if any, and return the exit code."""
    try:
        return work()
    except PydumpError as error:
        return fail(error.message, error.exit_code, error.hint)
    except KeyboardInterrupt:
        return fail(f"interrupted{session.lost}", EXIT_INTERRUPTED)
    except BrokenPipeError:
        silence_stdout()
        return EXIT_BROKEN_PIPE
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
