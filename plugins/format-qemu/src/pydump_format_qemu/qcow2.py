"""The memory of a snapshot that ``savevm`` put into a qcow2 file.

Source: docs/interop/qcow2.txt of QEMU; block/qcow2.h.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pydump.errors import FormatError, PlanError
from pydump.interfaces.backing import Backing
from pydump.layout.struct import U16, U32, U64, Bytes4, Layout

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Bits of the size of a cluster.
CLUSTER_BITS: Final = range(9, 22)
#: Source: QCOW_MAX_SNAPSHOTS and QCOW_MAX_L1_SIZE in block/qcow2.h; bytes of a snapshot's extra data.
MAX_SNAPSHOTS: Final = 65536
MAX_L1_SIZE: Final = 32 << 20
MAX_EXTRA: Final = 1024
#: Features that do not matter here: refcounts that are wrong, a file marked as corrupt, the kind of compression. Others
#: are data in a file of its own and extended L2 entries.
HARMLESS: Final = 1 | 2 | 8
#: QEMU never compresses memory.
COMPRESSED: Final = 1 << 62
ZERO: Final = 1
OFFSET: Final = 0x00FFFFFFFFFFFE00
#: L2 tables that are kept.
CACHED_TABLES: Final = 64


class Header(Layout):
    """The beginning of a qcow2 file, all of it big-endian."""

    magic: Bytes4 = b"QFI\xfb"
    version: U32 = 3
    backing_file_offset: U64 = 0
    backing_file_size: U32 = 0
    cluster_bits: U32 = 16
    size: U64 = 0
    crypt_method: U32 = 0
    l1_size: U32 = 0
    l1_table_offset: U64 = 0
    refcount_table_offset: U64 = 0
    refcount_table_clusters: U32 = 0
    nb_snapshots: U32 = 0
    snapshots_offset: U64 = 0


class SnapshotHeader(Layout):
    """An entry of the table of snapshots, before its extra data and names."""

    l1_table_offset: U64 = 0
    l1_size: U32 = 0
    id_str_size: U16 = 0
    name_size: U16 = 0
    date_sec: U32 = 0
    date_nsec: U32 = 0
    vm_clock_nsec: U64 = 0
    vm_state_size: U32 = 0
    extra_data_size: U32 = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot.

    Attributes:
        id: Its number.
        name: Its name.
        l1_offset: Where its first table is.
        l1_size: Entries of that table.
        state_size: Bytes of memory and devices; 0 where it is of the disk alone.
        disk_size: Bytes of the disk.
    """

    id: str
    name: str
    l1_offset: int
    l1_size: int
    state_size: int
    disk_size: int


class SnapshotBacking(Backing):
    """The memory and devices of a snapshot, as a file of their own.

    Args:
        file: The qcow2 file.
        wanted: A snapshot's name or number; empty for the only one with memory.

    Raises:
        FormatError: The file is damaged.
        PlanError: There is no such snapshot, or it is not said which.
    """

    def __init__(self, file: Backing, wanted: str) -> None:
        self.path = file.path
        self._file = file
        header = Header.unpack(file.read(0, min(file.size, Header.nbytes())).ljust(Header.nbytes(), b"\0"), "big")
        if header.version not in (2, 3) or header.cluster_bits not in CLUSTER_BITS:
            raise FormatError(file.path, f"qcow2 version {header.version}, clusters of 2^{header.cluster_bits} bytes")
        features = int.from_bytes(file.read(72, 8), "big") if header.version == 3 and file.size >= 80 else 0
        if features & ~HARMLESS or header.crypt_method:
            raise FormatError(file.path, "it is encrypted, or has its data in another file")
        self._bits = header.cluster_bits
        self.snapshot = _chosen(file, list(_snapshots(file, header)), wanted)
        self.size = self.snapshot.state_size
        self._tables: dict[int, NDArray[np.uint64]] = {}
        self._l1 = self._table(self.snapshot.l1_offset, self.snapshot.l1_size)
        # Memory begins behind the disk, where an entry of the first table begins.
        covered = 1 << 2 * self._bits - 3
        self._start = -(-self.snapshot.disk_size // covered) * covered

    def _table(self, offset: int, entries: int) -> NDArray[np.uint64]:
        import numpy as np

        return np.frombuffer(self._file.read(offset, 8 * entries), ">u8")

    def _entry(self, cluster: int) -> int:
        """The entry of a cluster in its L2 table; 0 where there is none."""
        first, second = divmod(cluster, 1 << self._bits - 3)
        table = int(self._l1[first]) & OFFSET if first < len(self._l1) else 0
        if not table:
            return 0
        if table not in self._tables:
            if len(self._tables) == CACHED_TABLES:
                self._tables.clear()
            self._tables[table] = self._table(table, 1 << self._bits - 3)
        return int(self._tables[table][second])

    def _pieces(self, offset: int, size: int) -> Iterator[tuple[int, int, int]]:
        """``(offset, size, entry)`` of the parts of a range, clusters that follow each other in the file together."""
        at, end, cluster_size = offset, offset + size, 1 << self._bits
        while at < end:
            cluster = (self._start + at) >> self._bits
            entry = self._entry(cluster)
            start, stop = at, min(end, at - at % cluster_size + cluster_size)
            plain = entry & OFFSET and not entry & (COMPRESSED | ZERO)
            while plain and stop < end:
                cluster += 1
                following = self._entry(cluster)
                if following & (COMPRESSED | ZERO) or following & OFFSET != (entry & OFFSET) + stop - (
                    start - start % cluster_size
                ):
                    break
                stop = min(end, stop + cluster_size)
            yield start, stop - start, entry
            at = stop

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self.check(offset, len(buffer))
        for start, size, entry in self._pieces(offset, len(buffer)):
            part = buffer[start - offset : start - offset + size]
            within = start % (1 << self._bits)
            if entry & COMPRESSED:
                raise FormatError(self.path, "a cluster of the snapshot's memory is compressed", offset=start)
            if entry & ZERO or not entry & OFFSET:
                part[:] = bytes(size)
            else:
                self._file.read_into((entry & OFFSET) + within, part)

    def data_ranges(self, offset: int, size: int) -> Iterator[tuple[int, int]]:
        for start, length, entry in self._pieces(offset, size):
            if entry & COMPRESSED or (entry & OFFSET and not entry & ZERO):
                yield start, start + length

    def close(self) -> None:
        self._file.close()


def _snapshots(file: Backing, header: Header) -> Iterator[Snapshot]:
    """The snapshots of a file."""
    if header.nb_snapshots > MAX_SNAPSHOTS:
        raise FormatError(file.path, f"it claims {header.nb_snapshots} snapshots")
    at = header.snapshots_offset
    for _ in range(header.nb_snapshots):
        entry = SnapshotHeader.unpack(file.read(at, SnapshotHeader.nbytes()), "big")
        if entry.extra_data_size > MAX_EXTRA or 8 * entry.l1_size > MAX_L1_SIZE:
            raise FormatError(file.path, "the table of snapshots is damaged", offset=at)
        at += SnapshotHeader.nbytes()
        extra = file.read(at, entry.extra_data_size)
        at += entry.extra_data_size
        names = file.read(at, entry.id_str_size + entry.name_size)
        at += -(-len(names) // 8) * 8 if entry.extra_data_size % 8 == 0 else len(names)
        state_size, disk_size = entry.vm_state_size, header.size
        if len(extra) >= 8:
            state_size = int.from_bytes(extra[:8], "big") or state_size
        if len(extra) >= 16:
            disk_size = int.from_bytes(extra[8:16], "big")
        yield Snapshot(
            names[: entry.id_str_size].decode("utf-8", "replace"),
            names[entry.id_str_size :].decode("utf-8", "replace"),
            entry.l1_table_offset,
            entry.l1_size,
            state_size,
            disk_size,
        )


def _chosen(file: Backing, snapshots: list[Snapshot], wanted: str) -> Snapshot:
    """The snapshot with memory that is wanted."""
    with_memory = [snapshot for snapshot in snapshots if snapshot.state_size]
    if not with_memory:
        why = "its snapshots hold no memory" if snapshots else "it has no snapshots"
        raise PlanError(f"{file.path} holds no guest memory: {why}", hint="savevm makes a snapshot with memory")
    found = [s for s in with_memory if wanted in ("", s.name)] or [s for s in with_memory if wanted == s.id]
    if len(found) == 1:
        return found[0]
    names = ", ".join(f"{snapshot.name} ({snapshot.id})" for snapshot in with_memory)
    if found and wanted:
        raise PlanError(
            f"{file.path} has {len(found)} snapshots {wanted!r}", hint=f"use --qemu-snapshot NUMBER: {names}"
        )
    what = f"no snapshot {wanted!r}" if wanted else f"{len(with_memory)} snapshots"
    raise PlanError(f"{file.path} has {what}", hint=f"use --qemu-snapshot NAME: {names}")
