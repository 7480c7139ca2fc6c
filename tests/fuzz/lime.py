"""The LiME reader: everything that a command asks of it, for any bytes."""

from __future__ import annotations

from elf import Bytes, read_pieces

from pydump_format_lime.reader import LimeImage


def one(data: bytes) -> None:
    """Open the file, ask for its facts, and read its memory."""
    read_pieces(LimeImage(Bytes(data)))
