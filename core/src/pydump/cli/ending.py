"""How a command ends: its exit code, the one line of an error, and the signals that end it early."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable, Iterable
from typing import Any, Final

from pydump.cli.console import of_file, silence_stdout, tell
from pydump.cli.session import session
from pydump.errors import Cancelled, PluginError, PydumpError, failure

#: Exit codes that no error carries.
EXIT_INCOMPLETE: Final = 3
EXIT_DIFFERS: Final = 4
EXIT_INTERRUPTED: Final = 130
#: What a shell says of a program that SIGPIPE ended, because nobody reads its output any more.
EXIT_BROKEN_PIPE: Final = 128 + signal.SIGPIPE
#: What to add to errors of the operating system that concern none of our files.
_OS_HINTS: Final = {errno.EMFILE: "; raise the limit with ulimit -n"}
#: Errors of the operating system that come from printing.
_OF_OUTPUT: Final = (errno.EBADF, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
#: The host's limits: not the fault of the plugin that runs into them.
_LIMITS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def complain(message: str, hint: str | None = None) -> None:
    """Print an error on one line of standard error."""
    tell(f"pydump: error: {message}; {hint}" if hint else f"pydump: error: {message}")


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


def incomplete(lost: int, warnings: Iterable[str], *, more: bool = False) -> int:
    """Say that what was made or shown is incomplete, even with ``--quiet``; returns the exit code.

    Args:
        lost: Bytes of guest memory that are unreadable.
        more: Whether more is lost, and nobody knows how much.
        warnings: What is known of why; they have been printed unless the user wants errors only.
    """
    for warning in warnings if session.quiet else ():
        tell(f"pydump: warning: {of_file(warning)}")
    if more and not lost:
        tell(f"pydump: incomplete: {of_file('')}how much guest memory is lost is not known")
    elif lost:
        behind = "; how much more is lost is not known" if more else ""
        tell(f"pydump: incomplete: {of_file('')}{lost} bytes of guest memory are unreadable{behind}")
    return EXIT_INCOMPLETE


def error_object(message: str, code: int, hint: str | None) -> dict[str, Any]:
    """What JSON has of an error."""
    return {"error": message, "hint": hint, "exit_code": code}


def exit_code_of(work: Callable[[], int]) -> int:
    """Do ``work``, print the error that ends it, if any, and return the exit code."""
    try:
        return work()
    except KeyboardInterrupt:
        return fail(f"interrupted{session.lost}", EXIT_INTERRUPTED)
    except MemoryError:
        return fail("out of memory", 1)
    except Exception as error:
        failed = failure(error)
        of_plugin = isinstance(failed, PluginError)
        if isinstance(error, BrokenPipeError) and not of_plugin:
            silence_stdout()
            return EXIT_BROKEN_PIPE
        if os.environ.get("PYDUMP_DEBUG"):
            _show_traceback(failed)
        if said := _refused_by_host(error, of_plugin):
            return fail(said, 1)
        return fail(failed.message, failed.exit_code, failed.hint)


def _show_traceback(error: PydumpError) -> None:
    import traceback

    for text in (error.traceback or "".join(traceback.format_exception(error))).splitlines():
        tell(text)


def _refused_by_host(error: Exception, of_plugin: bool) -> str:
    """What the host did not let pydump do, or "" of any other error.

    Files have errors of their own: these are of the standard streams, and of the process's limits.
    """
    if isinstance(error, OSError) and not (of_plugin and error.errno not in _LIMITS):
        if error.errno in _OF_OUTPUT and not error.filename:
            why = "it is closed" if error.errno == errno.EBADF else error.strerror
            return f"cannot write to standard output: {why}"
        hint = _OS_HINTS.get(error.errno or 0, "")
        return f"{error.strerror}{f': {error.filename}' if error.filename else ''}{hint}"
    if isinstance(error, ImportError) and not (of_plugin and isinstance(error, ModuleNotFoundError)):
        root: BaseException = error  # NumPy wraps what the loader says in a page of advice
        while root.__cause__ is not None:
            root = root.__cause__
        return f"cannot load a library: {' '.join(str(root).split())}"
    return ""


def handle_signals() -> None:
    """From here on a signal undoes what was begun, before the process ends."""
    sys.unraisablehook = _send_again
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminated)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _interrupted)


def _send_again(lost: sys.UnraisableHookArgs) -> None:
    """Send a signal again whose exception Python dropped, because it was raised within a finalizer.

    It is sent a moment later, from another thread: within this hook its exception would be dropped as well.
    """
    number = getattr(lost.exc_type, "signal_number", None)  # of a plugin's own alarm
    for kind, its in ((KeyboardInterrupt, signal.SIGINT), (Cancelled, signal.SIGTERM)):
        if number is None and issubclass(lost.exc_type, kind):
            number = its
    if number is None:
        sys.__unraisablehook__(lost)
        return
    import threading

    again = threading.Timer(0.01, os.kill, (os.getpid(), number))
    again.daemon = True
    again.start()


def _interrupted(number: int, frame: Any) -> None:
    if not session.written:
        raise KeyboardInterrupt


def _terminated(number: int, frame: Any) -> None:
    if session.written:  # it is done: to say otherwise would be wrong
        return
    raise Cancelled(f"ended by {signal.Signals(number).name}{session.lost}")
