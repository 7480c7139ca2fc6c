"""What reaches a terminal as text: strings from files, guests and monitors with nothing in them that it obeys.

A release in VMCOREINFO may hold an escape sequence that sets the window's title, a note's name a newline that forges a
row of a table, a job's name controls that turn the line's direction round. All text that commands print for people
passes through here; JSON is ASCII with its own escapes, and data goes to standard output as it is.
"""

from __future__ import annotations

import re
from typing import Final, TextIO

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
