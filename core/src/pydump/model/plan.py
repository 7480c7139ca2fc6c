"""The plan of a dump: everything that is decided before its memory is read."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pydump.model.guest import Guest
from pydump.model.memory import Ranges
from pydump.options import NoOptions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Whose bytes to write, where not the right ones.
Compat = Literal["qemu"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is read, left out and written, by which plugins.

    Attributes:
        guest: The facts to write; ``guest.memory`` is what of RAM the dump covers.
        format: Name of the format.
        compression: Name of the compressor, or "none".
        excluded: RAM that the source left out by choice.
        unreadable: RAM that the source says it lost.
        more_lost: Whether the source lost more, and does not state how much.
        compat: "qemu" to write what QEMU would, mistakes included.
        options: The format's options.
        take_stored: Whether compressed pages may be copied from the source as they are.
        u64_align: Alignment of a 64-bit struct field in the guest's C, in bytes.
        load_vaddrs: ``(paddr, difference)`` pairs, ascending: from that paddr on p_vaddr = p_paddr + difference.
        aliases: ``(vaddr, paddr, size)`` of segments that readers need beside those of the RAM blocks.
        mappings: Rows of vaddr, paddr and size, shape (n, 3), that segments are made from, or None for one per block.
        overlays: ``(paddr, bytes)`` that the dump holds instead of guest memory; only of a format that asks for it.
        part: ``(start, end)`` in paddr of the memory that this file of a split dump holds; None for a whole dump.
        warnings: What the user should know, a line each.
        fixed: Defects of the source that the plan corrects, a line each.
    """

    guest: Guest
    format: str
    compression: str = "none"
    excluded: Ranges = field(default_factory=Ranges.empty)
    unreadable: Ranges = field(default_factory=Ranges.empty)
    more_lost: bool = False
    compat: Compat | None = None
    options: Any = field(default_factory=NoOptions)
    take_stored: bool = True
    u64_align: int = 8
    load_vaddrs: tuple[tuple[int, int], ...] = ()
    aliases: tuple[tuple[int, int, int], ...] = ()
    mappings: NDArray[np.uint64] | None = None
    overlays: tuple[tuple[int, bytes], ...] = ()
    part: tuple[int, int] | None = None
    warnings: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()

    def vaddr(self, paddr: int) -> int:
        """The p_vaddr of a segment that begins at ``paddr``: the architecture's, or else ``paddr`` itself."""
        i = bisect_right(self.load_vaddrs, paddr, key=lambda pair: pair[0])
        return (paddr + self.load_vaddrs[i - 1][1]) % (1 << 64) if i else paddr

    def readable(self) -> Ranges:
        """RAM whose contents the dump holds."""
        return self.guest.memory.ranges().subtract(self.excluded).subtract(self.unreadable)
