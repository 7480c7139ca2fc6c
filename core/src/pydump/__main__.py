"""``python -m pydump`` and the command ``pydump``."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line and end the process with its exit code."""
    # NumPy's linear algebra starts a thread for each CPU when it is loaded; nothing here uses it.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from pydump.cli.app import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
