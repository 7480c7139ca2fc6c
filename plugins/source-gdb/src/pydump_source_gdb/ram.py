"""Where a guest has RAM: a stub does not say, so it comes from the user or from QEMU's monitor."""

from __future__ import annotations

import re
from typing import Final

from pydump.errors import PlanError, SourceError
from pydump.model.memory import MemoryMap, Ranges
from pydump.options import parse_number

#: More RAM than this, and more parts of it, are not believed.
MAX_RAM: Final = 1 << 47
MAX_PARTS: Final = 1 << 12
HINT: Final = "name it: --gdb-ram 0-3G,4G-5G"

#: What QEMU's own dump holds as well. Source: guest_phys_block_add_section in system/memory_mapping.c of QEMU.
_FLAT_RANGE = re.compile(r"  ([0-9a-f]{16})-([0-9a-f]{16}) \(prio -?\d+, (?:ram|rom)\): ")


def stated_ram(text: str) -> MemoryMap:
    """What the user writes: ``0-3G,4G-5G``.

    Raises:
        PlanError: It is not a list of ranges.
    """
    found = []
    for part in text.split(","):
        start, dash, end = part.partition("-")
        if not dash:
            raise PlanError(f"--gdb-ram {text}: {part!r} is not a range", hint="write START-END,…, as 0-3G,4G-5G")
        first, last = parse_number(start), parse_number(end)
        if not first < last <= 1 << 63:
            raise PlanError(f"--gdb-ram {text}: {part} is empty, or ends beyond the address space", hint=HINT)
        found.append((first, last - first))
    try:
        return MemoryMap.of(found)
    except ValueError as error:
        raise PlanError(f"--gdb-ram {text}: {error}", hint=HINT) from None


def flat_view_ram(text: str) -> MemoryMap:
    """The RAM in what QEMU's ``info mtree -f`` prints; empty where it is not that.

    Raises:
        SourceError: It has more RAM than any guest, or in more parts.
    """
    found: list[tuple[int, int]] = []
    ours = False
    for line in text.splitlines():
        if line.startswith("FlatView"):
            ours = False
        elif line.startswith(' AS "memory"'):
            ours = True
        elif ours and (match := _FLAT_RANGE.match(line)):
            found.append((int(match[1], 16), int(match[2], 16) + 1))
    ram = Ranges.of(found)
    if ram.size > MAX_RAM or len(found) > MAX_PARTS:
        raise SourceError(f"the stub's monitor lists {ram.size:#x} bytes of RAM in {len(found)} parts", hint=HINT)
    return MemoryMap.of((start, end - start) for start, end in ram)
