"""The skeleton architecture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

from pydump.hookspecs import hookimpl
from pydump.interfaces.arch import Arch, KernelTables, ReadPhysical
from pydump.interfaces.paging import Level, PageTables, levels_of
from pydump.layout.registers import NoteKind, numbered, run
from pydump.model.guest import ByteOrder, Guest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pydump.interfaces.paging import Decoded

#: In the order of the kernel's user_regs_struct. ptbr holds the paddr of the top page table.
GENERAL = "pc sp ptbr " + numbered("r{}", 16)


class SkeletonTables(PageTables):
    """Three levels of 512 entries: bit 0 says that an entry is in use, bit 1 that it is a page rather than a table."""

    def decode(self, level: Level, entries: NDArray[np.uint64], index: NDArray[np.uint64]) -> Decoded:
        import numpy as np

        used, page = entries & np.uint64(1) != 0, entries & np.uint64(2) != 0
        return used, page, entries & np.uint64((1 << 56) - (1 << 12))


class SkeletonArch(Arch):
    """A 64-bit machine."""

    name: ClassVar[str] = "skeleton"
    machine: ClassVar[int] = 0xFEED
    byte_order: ClassVar[ByteOrder] = "little"
    elf_class: ClassVar[int] = 64
    page_sizes: ClassVar[tuple[int, ...]] = (4096,)
    # struct elf_prstatus where long has 64 bits: pr_pid at 32, the registers at 112, pr_fpvalid behind them.
    note_kinds: ClassVar[tuple[NoteKind, ...]] = (
        NoteKind("PRSTATUS", "CORE", 1, 112 + 19 * 8 + 8, run(32, 4, "pr_pid") + run(112, 8, GENERAL)),
    )

    @classmethod
    def kernel_tables(cls, guest: Guest, read: ReadPhysical) -> Iterator[KernelTables]:
        order = guest.byte_order or cls.byte_order
        for cpu in cls.cpus(guest.notes, order):
            if root := cpu.registers.get("ptbr"):
                levels = levels_of(12, 9, 9, 9)
                yield KernelTables(SkeletonTables(read, guest.memory, root, levels, byte_order=order, signed=True))


@hookimpl
def pydump_register_arches() -> Sequence[type[Arch]]:
    """``--arch skeleton``."""
    return [SkeletonArch]
