"""Where captured memory is kept until it is encoded: in memory, or in a file without a name."""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydump.errors import SourceError
from pydump.model.memory import Ranges

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Linux 5.14; Python has no name for it. Source: include/uapi/asm-generic/mman-common.h.
MADV_POPULATE_WRITE: Final = 23
#: Python 3.13 has a name for it. Source: mman.h in include/uapi/asm-generic and arch/*/include/uapi/asm.
MAP_NORESERVE: Final = 0x40 if os.uname().machine.startswith(("ppc", "sparc")) else 0x4000
#: Memory that is left to others, at least.
RESERVE: Final = 256 << 20
_CGROUPS: Final = Path("/sys/fs/cgroup")
_MEMBERSHIP: Final = Path("/proc/self/cgroup")


class NoRoomError(SourceError):
    """There is no room for guest memory."""


class Store:
    """Room for guest memory. Forked processes inherit it.

    Args:
        memory: Which memory.
        directory: Where to keep it, or None for memory.

    Raises:
        NoRoomError: There is no room.
    """

    def __init__(self, memory: Ranges, directory: str | None = None) -> None:
        self._fd = -1
        self._directory = directory
        self._memory = self._data = memory
        self._starts: list[int] = []
        self._offsets: list[int] = []
        size = 0
        for start, end in memory:
            self._starts.append(start)
            self._offsets.append(size)
            # Each range begins on a page, so that what is reserved for one is not its neighbour's.
            size += -(-(end - start) // mmap.PAGESIZE) * mmap.PAGESIZE
        try:
            if directory is None:
                # Most of a large guest was never written to: only what is written here counts as used.
                flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
                self._map = mmap.mmap(-1, size, flags=flags)
                with contextlib.suppress(OSError):
                    self._map.madvise(mmap.MADV_HUGEPAGE)
            else:
                with tempfile.TemporaryFile(dir=directory, prefix="pydump-") as file:
                    self._fd = os.dup(file.fileno())
                os.ftruncate(self._fd, size)
                self._map = mmap.mmap(self._fd, size)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise NoRoomError(f"{directory or 'memory'} cannot hold {size >> 20} MiB: {why}") from None
        self._view = memoryview(self._map)

    def reserve(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Get room for ``(start, end)`` ranges before it is written to: quick while a guest waits, and safe on a disk.

        Raises:
            SourceError: The disk is full.
        """
        for start, end in ranges:
            offset = self._offset(start)
            first = offset // mmap.PAGESIZE * mmap.PAGESIZE
            size = -(-(offset + end - start - first) // mmap.PAGESIZE) * mmap.PAGESIZE
            if self._fd < 0:
                with contextlib.suppress(OSError):  # an older kernel: then they come as they are written to
                    self._map.madvise(MADV_POPULATE_WRITE, first, size)
                continue
            try:
                os.posix_fallocate(self._fd, first, size)
            except OSError as error:
                raise SourceError(
                    f"cannot keep guest memory in {self._directory}: {error.strerror}",
                    hint="name a directory with more room: --scratch DIR",
                ) from error

    def part(self, paddr: int, size: int) -> memoryview:
        """The room for a range that lies in one piece, to write to."""
        offset = self._offset(paddr)
        return self._view[offset : offset + size]

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        """Fill ``buffer`` from ``paddr`` on; the range lies in one piece."""
        buffer[:] = self.part(paddr, len(buffer))

    def write(self, paddr: int, data: NDArray[np.uint8]) -> None:
        """Keep ``data``, an array of shape (n,); what of it is not wanted is thrown away."""
        import numpy as np

        for start, end in self._memory.clip(paddr, paddr + len(data)):
            np.frombuffer(self.part(start, end - start), np.uint8)[:] = data[start - paddr : end - paddr]

    def take(self, paddr: int, data: memoryview) -> list[tuple[int, int]]:
        """Keep ``data``, a range that lies in one piece, but its pages of zeros, which take no room.

        Returns:
            ``(start, end)`` in paddr of what is kept.

        Raises:
            SourceError: The disk is full.
        """
        import numpy as np

        from pydump.layout.zero import zero_pages

        whole = len(data) // mmap.PAGESIZE * mmap.PAGESIZE
        kept = np.concatenate([[False], ~zero_pages(data[:whole], mmap.PAGESIZE), [whole < len(data)], [False]])
        edges = np.flatnonzero(kept[1:] != kept[:-1]) * mmap.PAGESIZE
        runs = [(paddr + start, paddr + min(end, len(data))) for start, end in edges.reshape(-1, 2).tolist()]
        if self._fd >= 0:
            self.reserve(runs)
        for start, end in runs:
            self.part(start, end - start)[:] = data[start - paddr : end - paddr]
        return runs

    def data_ranges(self, paddr: int, size: int) -> Iterator[tuple[int, int]]:
        """``(start, end)`` in paddr of what may hold data within the range; the rest is zero."""
        yield from self._data.clip(paddr, paddr + size)

    def only(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Nothing but these ranges holds data; the rest is zero."""
        self._data = Ranges.of(ranges)

    def _offset(self, paddr: int) -> int:
        i = bisect_right(self._starts, paddr) - 1
        return self._offsets[i] + paddr - self._starts[i]

    def close(self) -> None:
        """Give the room back."""
        self._view.release()
        with contextlib.suppress(BufferError):  # an error's traceback may hold a part; the end of the process frees it
            self._map.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def room_for(size: int, directory: str | None) -> str | None:
    """Why there is no room for ``size`` bytes, or None where there is.

    Args:
        size: Bytes.
        directory: Where to keep them, or None for memory.
    """
    if directory is None:
        spare = spare_memory() - RESERVE
        where = "memory"
    else:
        try:
            status = os.statvfs(directory)
        except OSError as error:
            return f"{directory}: {error.strerror}"
        spare, where = status.f_bavail * status.f_frsize, directory
    return None if size <= spare else f"it takes {size >> 20} MiB, and {where} has {max(0, spare) >> 20} MiB to spare"


def spare_memory() -> int:
    """Bytes that this process may take without making anyone swap or end."""
    spare = 0
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            spare = int(value.split()[0]) << 10
    with contextlib.suppress(OSError):
        return min([spare, *_limits(_MEMBERSHIP.read_text())])
    return spare


def _limits(membership: str) -> Iterator[int]:
    """What each memory limit on this process leaves. Source: cgroup-v2.rst, cgroup-v1/memory.rst, cgroups(7).

    Args:
        membership: /proc/self/cgroup: lines ``number:controllers:path``; version 2 has neither number nor controllers.
    """
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top, most, used = _CGROUPS, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            top, most, used = _CGROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        group = top / path.lstrip("/")
        while group.is_relative_to(top):
            with contextlib.suppress(OSError, ValueError):
                yield int((group / most).read_text()) - int((group / used).read_text())
            group = group.parent
