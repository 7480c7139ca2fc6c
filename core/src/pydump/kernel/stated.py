"""Virtual addresses that a dump's maker gave to guest memory, where its page tables are out of reach."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pydump.interfaces.arch import AddressSpace, Mapping
from pydump.interfaces.image import KnowsVaddrs

if TYPE_CHECKING:
    from pydump.interfaces.image import MemoryImage

#: Mappings before an address that are looked at: one that holds it may begin before others that do not.
_NEAR: Final = 64


class StatedSpace(AddressSpace):
    """The mappings that a source states, as the PT_LOADs of an ELF file do.

    Args:
        mappings: Theirs; of those that overlap, the one that begins last counts.
    """

    def __init__(self, mappings: list[Mapping]) -> None:
        self._mappings = sorted(mappings, key=lambda mapping: mapping.vaddr)

    @classmethod
    def of(cls, source: MemoryImage) -> StatedSpace | None:
        """What ``source`` states, or None where it states nothing."""
        rows = source.mappings().tolist() if isinstance(source, KnowsVaddrs) else []
        return cls([Mapping(*row) for row in rows]) if rows else None

    def translate(self, vaddr: int) -> int | None:
        i = bisect_right(self._mappings, vaddr, key=lambda mapping: mapping.vaddr)
        for mapping in reversed(self._mappings[max(0, i - _NEAR) : i]):
            if vaddr < mapping.vaddr + mapping.size:
                return mapping.paddr + vaddr - mapping.vaddr
        return None

    def mappings(self) -> Iterator[Mapping]:
        return iter(self._mappings)
