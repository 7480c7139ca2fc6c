"""``python -m pydump`` and the command ``pydump``."""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    """Run the command line and end the process with its exit code."""
    # Loading modules takes a while, in which there is nothing to undo: Ctrl-C need not be an exception there, which
    # some would take for their own, or swallow.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as in the background
        signal.signal(signal.SIGINT, _interrupted)
    import contextlib
    import gc

    # NumPy's linear algebra starts a thread for each CPU when it is loaded; nothing here uses it.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Loading modules makes objects by the hundred thousand, none of them garbage: looking for it takes 20 ms.
    gc.set_threshold(100_000)
    _fill_closed_streams()
    from pydump.cli.app import run

    try:
        code = run(sys.argv[1:])
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt:  # while the end was being told
        code = 130
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # its reader has gone, or it was closed
            stream.flush()
    # Files are closed and workers ended; taking the interpreter's modules apart would take another 50 ms.
    os._exit(code)


def _interrupted(number: int, frame: object) -> None:
    try:
        os.write(2, b"pydump: error: interrupted\n")
    finally:
        os._exit(130)


def _fill_closed_streams() -> None:
    """Keep the numbers of standard streams that were closed by who started us from files that are opened later.

    Reading from standard input and writing to standard output fail all the same, as they should; who closes standard
    error wants to hear nothing.
    """
    if sys.stdin is None:
        _fill(0, os.O_WRONLY)
    if sys.stdout is None:
        _fill(1, os.O_RDONLY)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115  (open until the process ends)
    if sys.stderr is None:
        _fill(2, os.O_WRONLY)
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def _fill(number: int, flags: int) -> None:
    nothing = os.open(os.devnull, flags)
    if nothing != number:
        os.dup2(nothing, number)
        os.close(nothing)


if __name__ == "__main__":
    main()
