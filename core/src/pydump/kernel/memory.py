"""Guest memory by physical and by kernel virtual address, for code that follows the kernel's own structures."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping as Fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from pydump.errors import PlanError, ReadError
from pydump.interfaces.arch import AddressSpace, Arch, Mapping
from pydump.interfaces.image import KnowsAbsent, KnowsHoles
from pydump.kernel.stated import StatedSpace
from pydump.layout.struct import prefix
from pydump.model.memory import Ranges
from pydump.model.vmcoreinfo import Vmcoreinfo

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pydump.interfaces.image import MemoryImage
    from pydump.model.guest import ByteOrder, Guest

#: One past the last address that can be asked for.
ADDRESS_END: Final = 1 << 64
#: Bytes of the largest array in guest memory that is read. Its length is the guest's word.
MAX_ARRAY: Final = 256 << 20


class PhysicalMemory:
    """Guest memory by paddr.

    Args:
        source: Where it is read from.

    Attributes:
        missing: What of a page table was read as zeros because the source does not hold it, in words; empty if nothing.
        tables: ``(start, end)`` in paddr of all that was read of page tables.
    """

    def __init__(self, source: MemoryImage) -> None:
        self._source = source
        #: Where RAM is.
        self.ram: Ranges = source.guest().memory.ranges()
        self.missing = ""
        self.tables: set[tuple[int, int]] = set()

    def read(self, paddr: int, size: int) -> bytes:
        """``size`` bytes from ``paddr`` on.

        Raises:
            ReadError: There is no RAM in a part of the range, or the source does not hold it; the error says which.
        """
        self.check(paddr, size)  # before memory is reserved for it
        buffer = bytearray(size)
        self._source.read_into(paddr, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with what lies from ``paddr`` on; the same errors as :meth:`read`."""
        self.check(paddr, len(buffer))
        if len(buffer):
            self._source.read_into(paddr, buffer)

    def data(self, paddr: int, size: int) -> Iterator[tuple[int, int]]:
        """``(start, end)`` in paddr of what may hold data in a range that the source holds; the rest is zero."""
        if isinstance(self._source, KnowsHoles):
            yield from self._source.data_ranges(paddr, size)
        else:
            yield paddr, paddr + size

    @cached_property
    def data_size(self) -> int:
        """Bytes that may hold data."""
        held = self.held(0, ADDRESS_END - 1)
        return sum(b - a for start, end in held for a, b in self.data(start, end - start))

    def held(self, start: int, end: int) -> Ranges:
        """What of the range ``[start, end)`` is RAM that the source holds."""
        excluded, lost = self._absent(start, end)
        return self.ram.clip(start, end).subtract(excluded).subtract(lost)

    def _absent(self, start: int, end: int) -> tuple[Ranges, Ranges]:
        """What of a range was excluded, and what is unreadable."""
        if isinstance(self._source, KnowsAbsent):
            return self._source.absent(start, end)
        excluded, lost = self._all_absent
        return excluded.clip(start, end), lost.clip(start, end)

    @cached_property
    def _all_absent(self) -> tuple[Ranges, Ranges]:
        return self._source.excluded(), self._source.unreadable()

    def check(self, paddr: int, size: int) -> None:
        """Refuse a range that the source does not hold.

        Raises:
            ReadError: A part of it is not RAM, was excluded, or is unreadable.
        """
        end = paddr + size
        if size < 0 or paddr < 0 or end > ADDRESS_END:
            raise ReadError(paddr, size, "there is no such range")
        excluded, lost = self._absent(paddr, end)
        absent = next(iter(self.ram.clip(paddr, end).intersect(excluded.union(lost))), None)
        if absent is not None:
            why = "was excluded from the dump" if excluded.clip(*absent) else "is unreadable"
            raise ReadError(paddr, size, f"{absent[0]:#x}..{absent[1]:#x} {why}")
        if self.ram.clip(paddr, end).size != size:
            raise ReadError(paddr, size, "there is no RAM in all or part of it")

    def read_table(self, paddr: int, size: int) -> bytes:
        """``size`` bytes of a page table in RAM, as an address space reads them; what is absent is zero.

        Raises:
            ReadError: The source fails.
        """
        excluded, lost = ((), ()) if self.missing else self._absent(paddr, paddr + size)
        if excluded or lost:
            why = "was excluded from the source" if excluded else "is unreadable"
            self.missing = f"the page table at paddr {paddr:#x} {why}"
        self.tables.add((paddr, paddr + size))
        buffer = bytearray(size)
        self._source.read_into(paddr, memoryview(buffer))
        return bytes(buffer)


class KernelMemory:
    """The memory of a guest's kernel by virtual address, and the facts that VMCOREINFO states about it.

    Args:
        physical: Guest memory.
        space: The kernel's address space.
        info: The kernel's VMCOREINFO.
        byte_order: Of the guest.
        word_size: Bytes of a pointer, 4 or 8.
        page_size: Of the guest kernel, in bytes.
        stated: What the source states of virtual addresses, for where page tables are absent.
    """

    def __init__(
        self,
        physical: PhysicalMemory,
        space: AddressSpace,
        info: Vmcoreinfo,
        *,
        byte_order: ByteOrder,
        word_size: int,
        page_size: int,
        stated: AddressSpace | None = None,
    ) -> None:
        self.physical = physical
        self.space = space
        self.info = info
        self.byte_order = byte_order
        self.word_size = word_size
        self.page_size = page_size
        self._stated = stated

    @classmethod
    def of(cls, source: MemoryImage, guest: Guest, arch: type[Arch]) -> KernelMemory:
        """The kernel memory of a guest whose facts are complete: by its page tables, else as the source states it.

        Args:
            source: Where guest memory is read from.
            guest: Its completed facts.
            arch: Its architecture.

        Raises:
            PlanError: Too little is known of the guest to walk its page tables.
        """
        physical = PhysicalMemory(source)
        stated = StatedSpace.of(source)
        space = arch.address_space(guest, physical.read_table) or stated
        if space is None:
            raise PlanError(
                "too little is known of this guest to walk its page tables",
                hint=_needed(guest),
            )
        return cls(
            physical,
            space,
            guest.vmcoreinfo or Vmcoreinfo(b""),
            byte_order=guest.byte_order or "little",
            word_size=arch.elf_class // 8,
            page_size=guest.page_size or 4096,
            stated=stated,
        )

    @property
    def word(self) -> str:
        """The NumPy type of a pointer."""
        return f"{prefix(self.byte_order)}u{self.word_size}"

    def runs(self, vaddr: int, size: int) -> Iterator[Mapping]:
        """What ``[vaddr, vaddr + size)`` maps, ascending and joined; gaps are left out. One limited table walk."""
        return self.space.runs(vaddr, size)

    def held(self, vaddr: int, size: int) -> Iterator[tuple[int, int, int]]:
        """``(start, end, paddr)`` of what of a range is mapped to memory that the source holds, ascending."""
        for run in self.runs(vaddr, size):
            for start, end in self.physical.held(run.paddr, run.paddr + run.size):
                yield run.vaddr + start - run.paddr, run.vaddr + end - run.paddr, start

    def read(self, vaddr: int, size: int) -> bytes:
        """``size`` bytes from ``vaddr`` on.

        Raises:
            ReadError: Something in the range is not mapped, or the source does not hold it.
        """
        return bytes(self._read(vaddr, size))

    def _read(self, vaddr: int, size: int) -> bytearray:
        runs = self._covering(vaddr, size)
        buffer = bytearray(size)
        for run in runs:
            offset = run.vaddr - vaddr
            self.physical.read_into(run.paddr, memoryview(buffer)[offset : offset + run.size])
        return buffer

    def check(self, vaddr: int, size: int) -> None:
        """Refuse a range that is not mapped or that the source does not hold; the same errors as :meth:`read`."""
        self._covering(vaddr, size)

    def _covering(self, vaddr: int, size: int) -> list[Mapping]:
        """The runs that all of a range is made of, and that the source holds.

        Raises:
            ReadError: Something in the range is not mapped, or the source does not hold it.
        """
        if size < 0 or vaddr < 0 or vaddr + size > ADDRESS_END:
            raise ReadError(vaddr, size, "there is no such range", space="vaddr")
        runs, at = _from_start(self.runs(vaddr, size), vaddr)
        if at < vaddr + size and self.physical.missing and self._stated:
            runs, at = _from_start(self._stated.runs(vaddr, size), vaddr)
        if at < vaddr + size:
            why = self.physical.missing or f"nothing is mapped at virtual address {at:#x}"
            raise ReadError(vaddr, size, why, space="vaddr")
        for run in runs:
            self.physical.check(run.paddr, run.size)
        return runs

    def read_array(self, vaddr: int, dtype: str | np.dtype[Any], count: int) -> NDArray[Any]:
        """``count`` elements from ``vaddr`` on, shape (count,), as they lie in memory.

        Args:
            vaddr: Where the first one lies.
            dtype: Their type, with its byte order.
            count: How many.

        Raises:
            ReadError: As for :meth:`read`, or the array is larger than any that a kernel has.
        """
        import numpy as np

        kind = np.dtype(dtype)
        size = kind.itemsize * count
        if size > MAX_ARRAY:
            raise ReadError(vaddr, size, f"an array of more than {MAX_ARRAY >> 20} MiB is not believed", space="vaddr")
        return np.frombuffer(self._read(vaddr, size), kind)

    def struct(self, name: str, size: int, fields: Fields[str, tuple[str, int]]) -> np.dtype[Any]:
        """The NumPy type of a kernel struct.

        Args:
            name: Its name, for the error.
            size: Its bytes, as VMCOREINFO states them.
            fields: The type and the offset of each field that is wanted.

        Raises:
            PlanError: A field lies outside of the struct.
        """
        import numpy as np

        kinds = [np.dtype(kind) for kind, _ in fields.values()]
        offsets = [offset for _, offset in fields.values()]
        if any(not 0 <= at <= size - kind.itemsize for at, kind in zip(offsets, kinds, strict=True)):
            raise PlanError(
                f"VMCOREINFO states offsets beyond struct {name}", hint="it is damaged or of another kernel"
            )
        return np.dtype({"names": list(fields), "formats": kinds, "offsets": offsets, "itemsize": size})

    def read_word(self, vaddr: int) -> int:
        """The pointer at ``vaddr``; the same errors as :meth:`read`."""
        return int.from_bytes(self.read(vaddr, self.word_size), self.byte_order)

    def read_string(self, vaddr: int, size: int) -> str:
        """The text of at most ``size`` bytes at ``vaddr``, up to its NUL; the same errors as :meth:`read`."""
        return self.read(vaddr, size).partition(b"\0")[0].decode("utf-8", "replace")

    def symbol(self, name: str) -> int | None:
        """The vaddr of a kernel symbol, or None where VMCOREINFO does not state it."""
        return self.info.symbol(name)

    def offset(self, field: str) -> int | None:
        """The offset in bytes of ``struct.member``, or None where VMCOREINFO does not state it."""
        return self.info.offset(field)


def _from_start(runs: Iterator[Mapping], vaddr: int) -> tuple[list[Mapping], int]:
    """The runs that follow each other from ``vaddr`` on, and where they end."""
    taken: list[Mapping] = []
    at = vaddr
    for run in runs:
        if run.vaddr > at:
            break
        taken.append(run)
        at = run.vaddr + run.size
    return taken, at


def _needed(guest: Guest) -> str:
    """What to do where the page tables cannot be found."""
    info = guest.vmcoreinfo
    if guest.arch is None:
        return "name the architecture with --arch, or install its plugin"
    if info is None:
        return "it has neither VMCOREINFO nor CPU registers that lead to them; pydump dump --vmcoreinfo FILE adds one"
    lacking = [] if info.symbol("_stext") is not None else ["_stext"]
    if all(info.symbol(name) is None for name in ("swapper_pg_dir", "init_top_pgt", "init_level4_pgt")):
        lacking.append("swapper_pg_dir")
    if lacking:
        lines = " and ".join(f"SYMBOL({name})" for name in lacking)
        return (
            f"its VMCOREINFO lacks {lines}: add it from the kernel's symbols, and give it with pydump dump --vmcoreinfo"
        )
    if not guest.notes and not guest.cpus:
        return "the dump has no CPU registers, and what VMCOREINFO says does not lead to them"
    return "its page tables are not where its VMCOREINFO says: either is damaged, or of another boot"
