"""The reader of Windows crash dumps: everything that a command asks of it, for any bytes."""

from __future__ import annotations

from elf import Bytes, read_pieces

from pydump.engine.facts import complete
from pydump.registry import installed
from pydump_format_windmp.reader import WindmpImage


def one(data: bytes) -> None:
    """Open the file, ask for its facts and registers, and read its memory."""
    image = WindmpImage(Bytes(data))
    read_pieces(image)
    guest, arch, _ = complete(image.guest(), None, installed())
    image.cpus(guest, arch)
