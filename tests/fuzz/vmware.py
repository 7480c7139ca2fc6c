"""The VMware reader: a state, and the memory beside it."""

from __future__ import annotations

from elf import Bytes, read_pieces

from pydump_format_vmware.reader import open_image

#: Separates the state from the memory beside it in one input.
BETWEEN = b"\n-- vmem --\n"


def one(data: bytes) -> None:
    """Open the state, ask for its facts, and read its memory."""
    state, found, memory = data.partition(BETWEEN)
    image = open_image(Bytes(state), lambda name: Bytes(memory) if found else None)
    assert len(image.guest().cpus) <= 4096
    read_pieces(image)
