"""Cores of Xen guests: sections, frame numbers and registers."""

from __future__ import annotations

from elf import Bytes, read_pieces

from pydump_format_elf.xen import open_xen


def one(data: bytes) -> None:
    """Open the file, ask for its facts, and read its memory."""
    image = open_xen(Bytes(data))
    if image is not None:
        assert len(image.guest().cpus) <= 4096
        read_pieces(image)
