"""Where the guest sees the parts of QEMU's RAM: the flat view that ``info mtree -f`` prints."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pydump.errors import SourceError
from pydump.model.memory import MemoryMap, Ranges

#: More parts of a flat view than these are not believed.
MAX_PLACES: Final = 1 << 12
#: Bytes of RAM blocks that are not guest memory: video memory, flash, persistent memory.
MAX_OTHER_RAM: Final = 64 << 30

_FLAT_RANGE = re.compile(
    r"  ([0-9a-f]{16})-([0-9a-f]{16}) \(prio -?\d+, (?:ram|rom)\): (.+?)(?: @([0-9a-f]{16}))?(?: KVM)?$"
)


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A part of a RAM block of QEMU's, and where the guest sees it.

    Attributes:
        offset: In the block.
        size: Bytes.
        paddr: Guest-physical address.
    """

    offset: int
    size: int
    paddr: int


def most_ram(memory: Ranges) -> int:
    """Bytes of RAM blocks that a guest with this memory has at most; more is not believed."""
    return 8 * memory.size + MAX_OTHER_RAM


def places(flat_view: str, memory: Ranges) -> dict[str, list[Place]]:
    """The parts of each memory region that the guest sees as RAM, of a guest whose memory is known.

    Args:
        flat_view: What ``info mtree -f`` prints.
        memory: The guest's memory, all of which must be in it.

    Returns:
        As :func:`seen`.

    Raises:
        SourceError: It is not a flat view, or lacks memory.
    """
    found = seen(flat_view, most_ram(memory))
    if missing := memory.subtract(memory_of(found).ranges()):
        raise SourceError(
            f"QEMU's list of memory regions lacks the memory at {next(iter(missing))[0]:#x}", hint="take --pause copy"
        )
    return found


def seen(flat_view: str, most: int) -> dict[str, list[Place]]:
    """The parts of each memory region that the guest sees as RAM: those that QEMU's own dump has.

    Args:
        flat_view: What ``info mtree -f`` prints.
        most: Bytes that a region has at most.

    Returns:
        By the region's name, in ascending offsets. A part that is seen at two addresses is there twice.

    Raises:
        SourceError: It is not a flat view.
    """
    found: dict[str, list[Place]] = {}
    ours, end, count = False, 0, 0
    for line in flat_view.splitlines():
        if line.startswith("FlatView"):
            ours = False
        elif line.startswith(' AS "memory"'):
            ours = True
        elif ours and (match := _FLAT_RANGE.match(line)):
            start, last, name, offset = match.groups()
            place = Place(int(offset or "0", 16), int(last, 16) + 1 - int(start, 16), int(start, 16))
            count += 1
            if not end <= place.paddr < place.paddr + place.size or count > MAX_PLACES:
                raise SourceError(f"QEMU's list of memory regions is damaged at {place.paddr:#x}")
            if place.offset + place.size > most:
                raise SourceError(f"QEMU's list of memory regions has {place.size:#x} bytes at {place.paddr:#x}")
            end = place.paddr + place.size
            found.setdefault(name, []).append(place)
    return {name: sorted(parts) for name, parts in found.items()}


def memory_of(found: Mapping[str, list[Place]]) -> MemoryMap:
    """All that the guest sees as RAM, in blocks as QEMU's dump has them: each is one part of one region.

    Source: guest_phys_block_add_section in system/memory_mapping.c.
    """
    blocks: list[tuple[int, int]] = []
    name, end = "", (0, 0)
    for at, place in sorted(((at, place) for at, parts in found.items() for place in parts), key=lambda x: x[1].paddr):
        if blocks and at == name and (place.offset, place.paddr) == end:
            blocks[-1] = blocks[-1][0], blocks[-1][1] + place.size
        else:
            blocks.append((place.paddr, place.size))
        name, end = at, (place.offset + place.size, place.paddr + place.size)
    return MemoryMap.of(blocks)
