"""``python -m pydump`` and the command ``pydump``."""

from __future__ import annotations

import contextlib
import gc
import os
import sys


def main() -> None:
    """Run the command line and end the process with its exit code."""
    # NumPy's linear algebra starts a thread for each CPU when it is loaded; nothing here uses it.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Loading modules makes objects by the hundred thousand, none of them garbage: looking for it takes 20 ms.
    gc.set_threshold(100_000)
    # A stream that was closed by who started us swallows what is said; the work is done all the same.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  (open until the process ends)
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    from pydump.cli.app import run

    code = run(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # its reader has gone, or it was closed
            stream.flush()
    # Files are closed and workers ended; taking the interpreter's modules apart would take another 50 ms.
    os._exit(code)


if __name__ == "__main__":
    main()
