"""Maps of bare memory, and the memory beside them."""

from __future__ import annotations

from elf import Bytes, read_pieces

from pydump.builtin.memory_map import MappedImage, believed

#: Separates the map from the memory beside it in one input.
BETWEEN = b"\n-- memory --\n"


def one(data: bytes) -> None:
    """Open the memory by its map, and read it."""
    text, _, memory = data.partition(BETWEEN)
    read_pieces(MappedImage(Bytes(memory), believed("input", text)))
