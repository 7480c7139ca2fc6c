"""An open vmcore, as Python programs and the command line use it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from pydump.builtin.local import LocalExecutor
from pydump.engine.facts import (
    Facts,
    complete,
    is_unknown,
    require_linux,
    with_registers,
    with_utsname,
    with_vmcoreinfo,
)
from pydump.engine.generic import GenericArch
from pydump.engine.live import Input, is_live, view_of
from pydump.errors import PydumpError
from pydump.interfaces.arch import AddressSpace
from pydump.kernel.memory import KernelMemory, PhysicalMemory
from pydump.model.guest import Cpu, Guest
from pydump.model.memory import Ranges
from pydump.model.note import Note
from pydump.model.vmcoreinfo import Vmcoreinfo
from pydump.registry import Registry

if TYPE_CHECKING:
    from drgn import Program

    from pydump.engine.symbols import Symbols
    from pydump.kernel.kallsyms import Kallsyms
    from pydump.kernel.log import Record
    from pydump.model.findings import AddressReport

#: Bytes that are read at once of a range of any size.
PIECE = 1 << 20


class Dump:
    """An open vmcore, or a live guest as it is now: its memory and its facts. Use it as a context manager.

    Args:
        opened: What is read. It is closed with this.
        registry: What is installed.
        arch: An architecture's name, which overrides what the image states.

    Attributes:
        image: Reads the memory; of a live guest, a view of it.
        stated: The facts as the image states them.
    """

    def __init__(self, opened: Input, registry: Registry, *, arch: str | None = None) -> None:
        self._opened = opened
        self._live = is_live(opened)
        self.image = view_of(opened)
        self.stated = self.image.guest()
        self._registry = registry
        self._arch = arch
        self._completed: tuple[Guest, tuple[str, ...]] | None = None
        self._found: Guest | None = None
        self._physical: PhysicalMemory | None = None
        self._kernel: KernelMemory | None = None

    @property
    def guest(self) -> Guest:
        """The facts, completed and corrected by the architecture's plugin where it is installed.

        Raises:
            PlanError: The source does not say enough and no architecture was named.
        """
        return self._facts()[0]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is missing or odd in the source, and what the user should know about the facts, a line each."""
        if self._unknown():
            names = ", ".join(self._registry.names("arch")) or "none"
            unknown = f"the source does not name the guest's architecture; name it with --arch; available: {names}"
            return (*self.image.warnings(), unknown)
        return (*self.image.warnings(), *self._facts()[1])

    @property
    def known(self) -> Guest:
        """The facts as far as they are known: :attr:`guest`, or :attr:`stated` where the architecture is not known."""
        return self.stated if self._unknown() else self.guest

    def _unknown(self) -> bool:
        """Whether neither the image nor the user names the guest's architecture."""
        return is_unknown(self.stated, self._arch, self._registry)

    def _facts(self) -> tuple[Guest, tuple[str, ...]]:
        if self._completed is None:
            facts = complete(self.stated, self._arch, self._registry)
            if not self._live:  # its memory is read once it is captured
                facts = with_registers(self.image, facts)
                facts = facts._replace(guest=with_utsname(self.image, facts.guest, facts.arch))
            self._completed = facts.guest, facts.warnings
        return self._completed

    @property
    def cpus(self) -> tuple[Cpu, ...]:
        """The registers of each CPU; none without the architecture's plugin."""
        guest = self.known
        if guest.arch is None or guest.byte_order is None:
            return ()
        return self._registry.arch(guest.arch).cpus(guest.notes, guest.byte_order)

    def address_space(self) -> AddressSpace:
        """The guest kernel's virtual addresses.

        Raises:
            PlanError: Too little is known of the guest to walk its page tables.
        """
        return self._kernel_memory().space

    def _kernel_memory(self) -> KernelMemory:
        """The kernel's memory, by the VMCOREINFO in guest memory where the source has none."""
        if self._kernel is None:
            guest, arch, _ = self._searched()
            self._kernel = KernelMemory.of(self.image, guest, arch)
        return self._kernel

    def _with_vmcoreinfo(self) -> Guest:
        """What the source says, with the VMCOREINFO in guest memory where it has none."""
        if self.stated.vmcoreinfo is not None:
            return self.stated
        if self._found is None:  # it takes a look at all of memory
            # Only the process that opened a live guest can read it.
            executor = LocalExecutor(1 if self._live else None)
            self._found = with_vmcoreinfo(self.image, self.stated, self._arch, self._registry, executor=executor)
        return self._found

    def find_vmcoreinfo(self) -> Vmcoreinfo | None:
        """The guest kernel's VMCOREINFO: the source's, or else the one in guest memory, or None.

        Without the source's all of memory may be read for it.

        Raises:
            PlanError: The source has none, and nobody names the guest's architecture.
        """
        return self._with_vmcoreinfo().vmcoreinfo

    def _searched(self) -> Facts:
        """The facts, by the VMCOREINFO in guest memory where the source has none."""
        return complete(self._with_vmcoreinfo(), self._arch, self._registry)

    def read_virtual(self, vaddr: int, size: int) -> bytes:
        """``size`` bytes from the guest kernel's virtual address ``vaddr`` on.

        Raises:
            ReadError: Something in the range is not mapped, or not in the dump.
            PlanError: Too little is known of the guest to walk its page tables.
        """
        return self._kernel_memory().read(vaddr, size)

    def pieces(self, address: int, size: int, *, virtual: bool = False) -> Iterator[tuple[int, bytes]]:
        """A range of any size, as pieces of at most a MiB, each with its address.

        All of the range is checked before the first piece comes: what is mapped and what the dump holds.

        Args:
            address: Guest-physical, or with ``virtual`` a virtual address of the guest's kernel.
            size: Bytes.
            virtual: See ``address``.

        Raises:
            ReadError: A part of the range cannot be read; the error says which.
            PlanError: Too little is known of the guest to walk its page tables.
        """
        memory = self._kernel_memory() if virtual else self._physical_memory()
        memory.check(address, size)
        for at in range(address, address + size, PIECE):
            yield at, memory.read(at, min(PIECE, address + size - at))

    def symbols(self, vmlinux: str | os.PathLike[str] | None = None) -> Symbols:
        """Symbols of the guest's kernel.

        Args:
            vmlinux: The kernel's own file; without it there are only the symbols that VMCOREINFO has.

        Raises:
            PydumpError: The file cannot be read, or is not that of this kernel.
        """
        from pydump.engine.symbols import Symbols

        require_linux(self.known, "symbols are those of Linux")
        info = self.stated.vmcoreinfo
        if info is None and not self._live and not self._unknown():
            info = self._with_vmcoreinfo().vmcoreinfo
        return Symbols.open(info, None if vmlinux is None else os.fspath(vmlinux), self._registry, self._kallsyms)

    def _kallsyms(self) -> Kallsyms | None:
        """The kernel's own table of symbols, or None where it is not in the dump or VMCOREINFO does not lead to it."""
        from pydump.kernel.kallsyms import Kallsyms

        try:
            return Kallsyms.read(self._kernel_memory())
        except PydumpError:
            return None

    def machine_name(self) -> str | None:
        """What ELF calls the guest's machine, or None."""
        machine = self.known.machine
        return None if machine is None else self._registry.machine_name(machine)

    def note_type_name(self, note: Note) -> str | None:
        """What ELF calls a note's type, or None."""
        return self._registry.note_type_name(note.name, note.type)

    def classes(self) -> dict[str, Ranges]:
        """The pages of each class that an installed filter knows, as ranges of paddr.

        Raises:
            PlanError: No filter knows the guest, or it does not say what its pages are.
        """
        from pydump.engine.exclude import classified

        guest, arch, _ = self._searched()
        wanted = frozenset(name for cls in self._registry.filters() if cls.knows(guest) for name in cls.classes)
        found = classified(self.image, guest, arch, wanted or frozenset({"free"}), self._registry)
        return {name: ranges for one in found for name, ranges in one.classes.items()}

    def look_up(self, address: int, *, virtual: bool = False) -> AddressReport:
        """What is known of an address: is it there, of which class is its page, and where in the file is it.

        Args:
            address: Guest-physical, or with ``virtual`` a virtual address of the guest's kernel.
            virtual: See ``address``.

        Raises:
            PydumpError: Too little is known of the guest to walk its page tables, or its page cannot be read.
        """
        from pydump.engine.address import look_up
        from pydump.model.findings import AddressReport

        vaddr = address if virtual else None
        paddr = self._kernel_memory().space.translate(address) if virtual else address
        if paddr is None:
            return AddressReport(None, vaddr, "not mapped")
        guest, arch, _ = Facts(self.stated, GenericArch) if self._unknown() else self._searched()
        return look_up(self.image, guest, arch, paddr, self._registry, vaddr=vaddr)

    def log(self) -> Iterator[Record]:
        """The records of the kernel's log, the oldest first.

        Raises:
            PlanError: VMCOREINFO does not lead to the log, or too little is known of the guest to reach it.
            ReadError: The log is not in the dump.
        """
        from pydump.kernel.log import read_log

        require_linux(self.known, "dmesg reads the log of Linux")
        return read_log(self._kernel_memory())

    def drgn(self, vmlinux: str | os.PathLike[str] | None = None) -> Program:
        """A drgn program that reads the guest's memory through this dump, whatever container it is in.

        Memory that the dump left out, or cannot be read, is a FaultError of drgn.

        Args:
            vmlinux: The kernel's own file, whose debugging symbols are loaded; None to load none.

        Raises:
            PlanError: drgn is not installed, or the guest has no VMCOREINFO.
            PydumpError: drgn does not take the guest, or the file.
        """
        from pydump.engine.program import drgn_program

        require_linux(self.known, "drgn reads Linux")
        kernel = self._kernel_memory()
        program = drgn_program(kernel, self._physical_memory(), self._searched().guest, changes=self._live)
        if vmlinux is not None:
            try:
                program.load_debug_info([os.fspath(vmlinux)])
            except (OSError, LookupError, ValueError) as error:
                raise PydumpError(f"drgn cannot load {os.fspath(vmlinux)}: {error}") from None
        return program

    @property
    def notes(self) -> tuple[Note, ...]:
        """The notes but VMCOREINFO, as the file holds them."""
        return self.stated.notes

    @property
    def vmcoreinfo(self) -> Vmcoreinfo | None:
        """The guest kernel's VMCOREINFO, or None."""
        return self.stated.vmcoreinfo

    def read(self, paddr: int, size: int) -> bytes:
        """``size`` bytes of guest memory from ``paddr`` on.

        Raises:
            ReadError: There is no RAM in a part of the range, or the dump does not hold it; the error says which.
        """
        return self._physical_memory().read(paddr, size)

    def _physical_memory(self) -> PhysicalMemory:
        if self._physical is None:
            self._physical = PhysicalMemory(self.image)
        return self._physical

    def close(self) -> None:
        """Close the file or the connection."""
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
