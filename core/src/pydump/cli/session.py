"""What is known about this run of the command line: what stands before the command, and how far the command is."""

from __future__ import annotations

from typing import Final


class Session:
    """One run.

    Attributes:
        arch: The architecture's name that was given before the command, or None.
        json: Whether ``--json`` was given.
        stdout_is_data: Whether standard output is the dump itself, so that nothing may be added to it.
        verbose: Whether to explain choices.
        quiet: Whether to print errors only.
        written: Whether the output is complete and in its place, so that an interruption no longer undoes it.
        file: Which of several files a command works on; empty where there is one only.
        lost: What an interruption does to the output, as the end of a message; empty without one.
        warned: Warnings that were printed when they arose.
    """

    arch: str | None = None
    json = False
    stdout_is_data = False
    verbose = False
    quiet = False
    written = False
    file = ""
    lost = ""

    def __init__(self) -> None:
        self.warned: set[str] = set()


session: Final = Session()
