"""Guest RAM of which only a few places are filled in, for tests of page tables and other structures in memory."""

from __future__ import annotations

from pydump.model.guest import ByteOrder
from pydump.model.memory import MemoryMap


class SparseRam:
    """RAM that is zero but for what was written to it.

    Args:
        size: Bytes; it begins at 0.
        byte_order: Of the values that are written.
    """

    def __init__(self, size: int, byte_order: ByteOrder) -> None:
        self.memory = MemoryMap.of([(0, size)])
        self._byte_order = byte_order
        self._bytes: dict[int, int] = {}

    def put(self, paddr: int, value: int, *, size: int = 8) -> None:
        """Write a number of ``size`` bytes."""
        self._bytes.update(enumerate(value.to_bytes(size, self._byte_order), paddr))

    def read(self, paddr: int, size: int) -> bytes:
        """``size`` bytes from ``paddr`` on."""
        return bytes(self._bytes.get(at, 0) for at in range(paddr, paddr + size))
