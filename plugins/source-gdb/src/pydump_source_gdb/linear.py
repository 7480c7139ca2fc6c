"""Physical memory through virtual addresses, for a stub that reads those alone: by the kernel's mapping of all RAM."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from pydump.errors import PlanError, ReadError
from pydump.options import parse_number

#: Reads ``size`` bytes at a virtual address. Raises ReadError where nothing is mapped.
ReadVirtual = Callable[[int, int], bytes]

HINT: Final = "name the kernel's mapping of all RAM: --gdb-linear VADDR@PADDR, as 0xffff888000000000@0"
#: Source: Intel SDM volume 3, 2.5 and 4.5: CR0.PG, CR4.LA57, and entries of page tables.
CR0_PG, CR4_LA57, PRESENT, LARGE = 1 << 31, 1 << 12, 1, 1 << 7
ADDRESS: Final = (1 << 52) - (1 << 12)
#: Linux moves the mapping by a multiple of this. Source: arch/x86/mm/kaslr.c.
STEP: Final = 1 << 30
#: Places that are tried: the memory of a CPU of its own lies so many GiB above the begin of RAM at most.
TRIES: Final = 1 << 10
#: Source: Power ISA 3.1, book III, 4.2.1 (MSR.DR), and Documentation/arch/powerpc of Linux: PAGE_OFFSET.
MSR_DR, PPC64_OFFSET = 1 << 4, 0xC000000000000000


@dataclass(frozen=True, slots=True)
class Linear:
    """A mapping of all RAM.

    Attributes:
        vaddr: Where it begins.
        paddr: What lies there.
    """

    vaddr: int
    paddr: int = 0

    def to_vaddr(self, paddr: int) -> int:
        """Where ``paddr`` is mapped."""
        return self.vaddr + paddr - self.paddr

    def to_paddr(self, vaddr: int) -> int:
        """What ``vaddr`` maps."""
        return vaddr - self.vaddr + self.paddr


def stated_linear(text: str) -> Linear:
    """What the user writes: ``VADDR@PADDR``, or ``VADDR`` where paddr 0 lies there.

    Raises:
        PlanError: It is not that.
    """
    vaddr, _, paddr = text.partition("@")
    found = Linear(parse_number(vaddr), parse_number(paddr or "0"))
    if max(found.vaddr, found.paddr) >= 1 << 64:
        raise PlanError(f"--gdb-linear {text}: addresses have 64 bits", hint=HINT)
    return found


def find_linear(arch: str | None, registers: Mapping[str, int], read: ReadVirtual) -> Linear | None:
    """The mapping that a CPU uses, as far as its registers lead to one.

    Args:
        arch: The architecture that the CPU is in.
        registers: Its registers by pydump's names.
        read: Reads memory as this CPU sees it.
    """
    if arch in ("x86_64", "i386") and "cr0" in registers and not registers["cr0"] & CR0_PG:
        return Linear(0)
    if arch == "x86_64":
        return next((Linear(base) for base in _bases(registers) if maps_all(base, registers, read)), None)
    if arch == "ppc64" and "msr" in registers:
        return Linear(PPC64_OFFSET if registers["msr"] & MSR_DR else 0)
    return None


def _bases(registers: Mapping[str, int]) -> Iterator[int]:
    """Where Linux may have the mapping: below the memory of this CPU, which lies in it."""
    for name in ("gs_base", "kernel_gs_base"):
        address = registers.get(name, 0)
        if address >> 63:
            first = address // STEP * STEP
            yield from (base for base in range(first, first - TRIES * STEP, -STEP) if base >> 63)


def table_shifts(registers: Mapping[str, int]) -> tuple[int, ...]:
    """log2 of the bytes that an entry stands for, in each level of a CPU's page tables."""
    return (48, 39, 30, 21, 12)[not registers["cr4"] & CR4_LA57 :]


def maps_all(base: int, registers: Mapping[str, int], read: ReadVirtual) -> bool:
    """Whether the page tables, read through a mapping at ``base``, say that it is one: it must map paddr 0."""
    if not {"cr3", "cr4"} <= registers.keys():
        return False
    table = registers["cr3"] & ADDRESS
    try:
        for shift in table_shifts(registers):
            entry = int.from_bytes(read(base + table + 8 * (base >> shift & 511), 8), "little")
            if not entry & PRESENT:
                return False
            if shift == 12 or (shift < 39 and entry & LARGE):
                return entry & ADDRESS & -(1 << shift) == 0
            table = entry & ADDRESS
    except ReadError:
        return False
    return False
