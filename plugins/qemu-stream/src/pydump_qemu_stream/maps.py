"""QEMU's address space: what is mapped where, and which pages of it hold data.

Source: proc(5) on maps; Documentation/admin-guide/mm/pagemap.rst.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pydump.model.memory import Ranges

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Pages looked up in pagemap at a time.
LOOKUP: Final = 1 << 16
#: Bytes read at a time to find out whether they are zero.
STEP: Final = 4 << 20
#: Bits of a pagemap entry: the page is in memory; it is in swap; this process alone maps it (Linux 4.2).
PRESENT: Final = 1 << 63
SWAPPED: Final = 1 << 62
EXCLUSIVE: Final = 1 << 56
PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (....) ([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) (\d+)(?: +(.*))?")


@dataclass(frozen=True, slots=True)
class Mapping:
    """A line of ``/proc/PID/maps``.

    Attributes:
        start: First address.
        end: One past the last.
        shared: Is what is written seen by all who map the file?
        offset: Where in the file it begins.
        device: The file's, as st_dev.
        inode: The file's; 0 where there is none.
        path: What the kernel calls the file.
    """

    start: int
    end: int
    shared: bool
    offset: int
    device: int
    inode: int
    path: str


def mapping_of(line: str) -> Mapping:
    """A line of ``/proc/PID/maps``.

    Raises:
        ValueError: It has another form.
    """
    match = _MAPPING.match(line.rstrip("\n"))
    if match is None:
        raise ValueError(f"not a line of maps: {line!r}")
    start, end, flags, offset, major, minor, inode, path = match.groups()
    device = os.makedev(int(major, 16), int(minor, 16))
    return Mapping(int(start, 16), int(end, 16), flags[3] == "s", int(offset, 16), device, int(inode), path or "")


def held(pagemap: int, address: int, size: int, memory: int = -1) -> Ranges:
    """Pages of a range of addresses that a process holds, in memory or in swap, as addresses.

    Args:
        pagemap: The process's pagemap.
        address: Where the range begins.
        size: Bytes.
        memory: The process's memory, to leave out pages that are the kernel's page of zeros: who reads memory that was
            never written to gets that. pagemap does not name it, but such a page is not this process's alone, so it is
            read. -1: they count as held.
    """
    import numpy as np

    found: list[NDArray[np.int64]] = []
    first, past = address // PAGE, -(-(address + size) // PAGE)
    for page in range(first, past, LOOKUP):
        n = min(LOOKUP, past - page)
        entries = np.frombuffer(os.pread(pagemap, n * 8, page * 8), np.uint64)
        if len(entries) < n:  # the kernel does not say: all of it may be data
            found.append(np.array([[page, past]]))
            break
        kept = (entries & np.uint64(PRESENT | SWAPPED)) != 0
        if memory >= 0:
            for start, end in _runs(kept & ((entries & np.uint64(SWAPPED | EXCLUSIVE)) == 0)).tolist():
                for at in range(start, end, STEP // PAGE):
                    stop = min(at + STEP // PAGE, end)
                    kept[at:stop] = _not_zero(memory, (page + at) * PAGE, (stop - at) * PAGE)
        found.append(_runs(kept) + page)
    runs = np.concatenate(found) if found else np.empty((0, 2), np.int64)
    return Ranges.of_array(runs * PAGE).clip(address, address + size)


def _runs(chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The runs of true elements of an array of shape (n,), as an array of shape (runs, 2): first, and one past it."""
    import numpy as np

    edges = np.flatnonzero(np.diff(np.concatenate([[False], chosen, [False]]).astype(np.int8)))
    return edges.reshape(-1, 2)


def _not_zero(memory: int, address: int, size: int) -> NDArray[np.bool_]:
    """For each page of a range whether it holds anything but zeros, or cannot be read; shape (pages,)."""
    import numpy as np

    from pydump.layout.zero import zero_pages

    kept = np.ones(size // PAGE, np.bool_)
    try:
        data = os.pread(memory, size, address)
    except OSError:
        return kept
    pages = len(data) // PAGE
    kept[:pages] = ~zero_pages(memoryview(data)[: pages * PAGE], PAGE)
    return kept
