"""A reader that is slower than who writes."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def slow_reader(path: Path, seconds: float = 0.3) -> Iterator[int]:
    """A pipe to write to, as its descriptor; at the end all that went into it is at ``path``.

    Args:
        path: A file that is made.
        seconds: How long nothing is read.
    """
    with path.open("wb") as file:
        command = ["sh", "-c", f"sleep {seconds}; exec cat"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=file) as reader:
            assert reader.stdin is not None
            yield reader.stdin.fileno()
