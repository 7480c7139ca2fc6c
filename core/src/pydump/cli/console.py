"""What reaches a terminal as text: strings from files, guests and monitors with nothing in them that it obeys.

A release in VMCOREINFO may hold an escape sequence that sets the window's title, a note's name a newline that forges a
row of a table, a job's name controls that turn the line's direction round. All text that commands print for people
passes through here; JSON is ASCII with its own escapes, and data goes to standard output as it is.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Final, TextIO

from pydump.cli.session import session

#: C0, DEL and C1 controls, line and paragraph separators, and what changes the direction of text.
#: Source: Unicode, category Cc; UAX #9, section 2, "Directional Formatting Characters".
UNSAFE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    r"""``text`` with what a terminal would obey written out: ``\x1b``, ``\u202e``."""
    return UNSAFE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    number = ord(match[0])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


def line(text: str = "", stream: TextIO | None = None) -> None:
    """Print one line of text on ``stream``; default: standard output."""
    print(visible(text), file=stream)


def tell(text: str) -> None:
    """Print a line on standard error. That nobody reads it changes nothing."""
    with contextlib.suppress(OSError):
        line(text, sys.stderr)
        sys.stderr.flush()


def talk(text: str) -> None:
    """Print a message on standard error, unless the user wants errors only."""
    if not session.quiet:
        tell(f"pydump: {text}")


def warn(warnings: Iterable[str]) -> None:
    """Print warnings on standard error, a line each; those that were printed when they arose are left out."""
    for warning in warnings:
        if warning not in session.warned:
            talk(f"warning: {of_file(warning)}")


def of_file(text: str) -> str:
    """``text`` with the file that it is about, where a command works on several and the text does not name it."""
    return f"{session.file}: {text}" if session.file not in text else text


def listen(*, reasons: bool) -> None:
    """Print what plugins log while they work: warnings, and with ``reasons`` what they chose, and why."""
    import logging

    class Printer(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            if record.levelno >= logging.WARNING:
                session.warned.add(text)
                talk(f"warning: {of_file(text)}")
            else:
                tell(f"pydump: {text}")

    logger = logging.getLogger("pydump")
    if not logger.handlers:
        logger.addHandler(Printer())
    logger.setLevel(logging.INFO if reasons else logging.WARNING)


@contextlib.contextmanager
def afterwards() -> Iterator[None]:
    """Print a report of what is done already: a failure to print does not fail the command."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        silence_stdout()
        if error.errno not in (errno.EPIPE, errno.EBADF):  # else nobody wants to read it
            talk(f"warning: cannot print the report: {error.strerror}")


def silence_stdout() -> None:
    """Discard what is still to be printed, and what is buffered."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.close(nothing)


def escape_unprintable() -> None:
    r"""Print bytes of a name that are not text as ``\xff``, and characters that the terminal lacks by their numbers."""

    def escaped(error: UnicodeError) -> tuple[str, int]:
        assert isinstance(error, UnicodeEncodeError)
        return "".join(map(escape, error.object[error.start : error.end])), error.end

    def escape(character: str) -> str:
        if "\udc80" <= character <= "\udcff":  # what os.fsdecode makes of a byte
            return rf"\x{ord(character) - 0xDC00:02x}"
        return character.encode("ascii", "backslashreplace").decode()

    codecs.register_error("pydump", escaped)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="pydump")
