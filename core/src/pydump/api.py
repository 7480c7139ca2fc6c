"""The Python API: :func:`dump`, :func:`open`, :func:`verify`, :func:`compare`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from pydump.engine.exclude import classes_of_level
from pydump.engine.facts import Facts, complete, is_unknown, with_registers, with_utsname, with_vmcoreinfo
from pydump.engine.generic import GenericArch
from pydump.engine.open import open_source
from pydump.engine.outputs import Output
from pydump.engine.request import Request
from pydump.engine.run import run_dump
from pydump.engine.symbols import Symbols
from pydump.engine.unused import refuse_options
from pydump.errors import PlanError, PydumpError
from pydump.interfaces.arch import AddressSpace
from pydump.interfaces.image import MemoryImage
from pydump.interfaces.live import Live
from pydump.kernel.kallsyms import Kallsyms
from pydump.kernel.log import Record, read_log
from pydump.kernel.memory import KernelMemory, PhysicalMemory
from pydump.model.guest import Cpu, Guest
from pydump.model.memory import Ranges
from pydump.model.note import Note
from pydump.model.plan import Compat
from pydump.model.report import (
    AddressReport,
    CompareReport,
    DumpReport,
    LogNotice,
    MapReport,
    Milestone,
    ProgressCallback,
    SizeReport,
    VerifyReport,
)
from pydump.model.vmcoreinfo import Vmcoreinfo
from pydump.registry import Registry, installed

if TYPE_CHECKING:
    from drgn import Program

#: Options by plugin name, then by field: ``{"zlib": {"level": 6}}``.
Options = Mapping[str, Mapping[str, Any]]
#: What names a file; of a source also ``raw:PATH@PADDR``, of an output also ``-``.
Path = str | os.PathLike[str]


#: Bytes that are read at once of a range of any size.
PIECE = 1 << 20


class Dump:
    """An open vmcore: its memory and its facts. Use it as a context manager.

    Attributes:
        source: The source behind it.
    """

    def __init__(self, source: MemoryImage, registry: Registry, *, arch: str | None = None) -> None:
        self.source = source
        self.stated = source.guest()
        self._registry = registry
        self._arch = arch
        self._completed: tuple[Guest, tuple[str, ...]] | None = None
        self._found: Guest | None = None
        self._physical: PhysicalMemory | None = None
        self._kernel: KernelMemory | None = None

    @property
    def guest(self) -> Guest:
        """The facts, completed and put right by the architecture's plugin where it is installed.

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
            return (*self.source.warnings(), unknown)
        return (*self.source.warnings(), *self._facts()[1])

    @property
    def known(self) -> Guest:
        """The facts as far as they are known: :attr:`guest`, or what the source says where nobody knows the rest."""
        return self.stated if self._unknown() else self.guest

    def _unknown(self) -> bool:
        """Whether neither the source nor the user says of which architecture the guest is."""
        return is_unknown(self.stated, self._arch, self._registry)

    def _facts(self) -> tuple[Guest, tuple[str, ...]]:
        if self._completed is None:
            facts = complete(self.stated, self._arch, self._registry)
            if not isinstance(self.source, Live):  # its memory is read once it is captured
                facts = with_registers(self.source, facts)
                facts = facts._replace(guest=with_utsname(self.source, facts.guest, facts.arch))
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
            self._kernel = KernelMemory.of(self.source, guest, arch)
        return self._kernel

    def _with_vmcoreinfo(self) -> Guest:
        """What the source says, with the VMCOREINFO in guest memory where it has none."""
        if self.stated.vmcoreinfo is not None:
            return self.stated
        if self._found is None:  # it takes a look at all of memory
            # Only the process that opened a live guest can read it.
            workers = 1 if isinstance(self.source, Live) else None
            self._found = with_vmcoreinfo(self.source, self.stated, self._arch, self._registry, workers=workers)
        return self._found

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

    def symbols(self, vmlinux: Path | None = None) -> Symbols:
        """Symbols of the guest's kernel.

        Args:
            vmlinux: The kernel's own file; without it there are only the symbols that VMCOREINFO has.

        Raises:
            PydumpError: The file cannot be read, or is not that of this kernel.
        """
        info = self.stated.vmcoreinfo
        if info is None and not isinstance(self.source, Live) and not self._unknown():
            info = self._with_vmcoreinfo().vmcoreinfo
        return Symbols.open(info, None if vmlinux is None else os.fspath(vmlinux), self._registry, self._kallsyms)

    def _kallsyms(self) -> Kallsyms | None:
        """The kernel's own table of symbols, or None where it is not in the dump or VMCOREINFO does not lead to it."""
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
        found = classified(self.source, guest, arch, wanted or frozenset({"free"}), self._registry)
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

        vaddr = address if virtual else None
        paddr = self._kernel_memory().space.translate(address) if virtual else address
        if paddr is None:
            return AddressReport(None, vaddr, "not mapped")
        guest, arch, _ = Facts(self.stated, GenericArch) if self._unknown() else self._searched()
        return look_up(self.source, guest, arch, paddr, self._registry, vaddr=vaddr)

    def log(self) -> Iterator[Record]:
        """The records of the kernel's log, the oldest first.

        Raises:
            PlanError: VMCOREINFO does not lead to the log, or too little is known of the guest to reach it.
            ReadError: The log is not in the dump.
        """
        return read_log(self._kernel_memory())

    def drgn(self, vmlinux: Path | None = None) -> Program:
        """A drgn program that reads the guest's memory through this dump, whatever container it is in.

        Memory that the dump left out, or cannot be read, is a FaultError of drgn.

        Args:
            vmlinux: The kernel's own file, whose debugging symbols are loaded; None to load none.

        Raises:
            PlanError: drgn is not installed, or the guest has no VMCOREINFO.
            PydumpError: drgn does not take the guest, or the file.
        """
        from pydump.engine.program import drgn_program

        kernel = self._kernel_memory()
        program = drgn_program(kernel, self._physical_memory(), self._searched().guest)
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
            self._physical = PhysicalMemory(self.source)
        return self._physical

    def close(self) -> None:
        """Let go of the file."""
        self.source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open(source: Path | MemoryImage, *, arch: str | None = None, options: Options | None = None) -> Dump:
    """Open a vmcore, or anything else that ``pydump dump`` takes as its source.

    Args:
        source: A path, paths separated by commas, ``raw:PATH@PADDR``, or a MemoryImage.
        arch: An architecture's name, which overrides what the source says.
        options: Options of the plugin that reads it: ``{"qmp": {"access": "memory"}}``.

    Raises:
        PydumpError: It cannot be opened.
    """
    return _opened(source, arch, options)


def _opened(source: Path | MemoryImage, arch: str | None, options: Options | None, *, shared: bool = False) -> Dump:
    registry = installed()
    if isinstance(source, MemoryImage) and options:
        raise PlanError("the source is open, and options for it come too late")
    if not isinstance(source, MemoryImage):
        source = open_source(os.fspath(source), registry, options, shared=shared)
    return Dump(source, registry, arch=arch)


def _label(source: Path | MemoryImage) -> str:
    """What reports call a source."""
    return type(source).__name__ if isinstance(source, MemoryImage) else os.fspath(source)


@contextlib.contextmanager
def _captured(
    source: Path | MemoryImage,
    *,
    arch: str | None = None,
    options: Options | None = None,
    shared: bool = False,
    progress: ProgressCallback | None = None,
) -> Iterator[Dump]:
    """A vmcore that forked workers can read: a live guest is captured first, as its monitor serves one process."""
    with _opened(source, arch, options, shared=shared) as opened:
        if not isinstance(opened.source, Live):
            yield opened
            return
        opened.source.capture(opened.stated.memory, progress)
        yield Dump(opened.source, opened._registry, arch=arch)
        opened.source.release()


def dump(
    source: Path | MemoryImage,
    output: Path,
    *,
    format: str = "kdump",
    compression: str | None = None,
    arch: str | None = None,
    begin: int | None = None,
    length: int | None = None,
    vmcoreinfo: Vmcoreinfo | Literal["memory"] | None = None,
    no_vmcoreinfo: bool = False,
    cpus: Sequence[Cpu] | None = None,
    paging: bool = False,
    compat: Compat | None = None,
    dump_level: int | None = None,
    exclude: Iterable[str] = (),
    filter_anyway: bool = False,
    ram_only: bool = False,
    flatten: bool = False,
    split: int | None = None,
    force: bool = False,
    sync: bool = True,
    workers: int | None = None,
    dry_run: bool = False,
    options: Options | None = None,
    progress: ProgressCallback | None = None,
    reached: Callable[[Milestone], None] | None = None,
) -> DumpReport:
    """Write a vmcore.

    Args:
        source: A path, paths separated by commas, ``raw:PATH@PADDR``, or a MemoryImage.
        output: A path, or ``-`` for standard output; of a split dump a path with ``%d`` for the number of each file,
            counted from 0, or the paths separated by commas.
        format: A format's name: "kdump", "elf", or QEMU's ("kdump-lzo").
        compression: A compressor's name, "none", or None for the best known one that is installed.
        arch: An architecture's name, which overrides what the source says.
        begin: The first paddr wanted.
        length: Bytes wanted from ``begin`` on.
        vmcoreinfo: VMCOREINFO to write in place of the source's; "memory" takes the one in guest memory. Where the
            source has none and none is given, it is looked for there as well.
        no_vmcoreinfo: Write none, and look for none.
        cpus: CPUs whose notes are written in place of the source's.
        paging: Give the segments the guest kernel's virtual addresses (ELF only).
        compat: "qemu" to write what QEMU would, mistakes included.
        dump_level: Leave out pages by makedumpfile's number: the sum of 1 (zero pages), 2 (cache), 4 (cache, also with
            private data), 8 (memory of programs) and 16 (free pages).
        exclude: Classes of pages to leave out, beside those of ``dump_level``: "zero", and what filters know, such as
            "cache", "cache-private", "user" and "free".
        filter_anyway: Leave pages out even where a check says that the filter does not understand the guest.
        ram_only: Leave out firmware and device memory.
        flatten: Write a flattened stream even where the output can seek.
        split: Split the dump over this many files.
        force: Replace an existing output.
        sync: Wait until the data is on the disk.
        workers: Processes that encode; default: the CPUs this process may use.
        dry_run: Plan only, write nothing.
        options: Plugin options: ``{"zlib": {"level": 6}}``.
        progress: Told how far the run is.
        reached: Told what has been reached.

    Raises:
        PydumpError: It failed; nothing is left at the output.
    """
    request = Request(
        format=format,
        compression=compression,
        arch=arch,
        begin=begin,
        length=length,
        vmcoreinfo=vmcoreinfo,
        no_vmcoreinfo=no_vmcoreinfo,
        cpus=None if cpus is None else tuple(cpus),
        paging=paging,
        compat=compat,
        exclude=frozenset(exclude) | classes_of_level(dump_level or 0),
        dump_level=None if exclude else dump_level,
        filter_anyway=filter_anyway,
        ram_only=ram_only,
        options=options or {},
    )
    registry = installed()
    own = isinstance(source, MemoryImage)
    if isinstance(source, MemoryImage):
        opened = source
        refuse_options(request.options, "source", registry.sources(), "the source is open already")
    else:
        opened = open_source(os.fspath(source), registry, options)
    label = _label(source)
    try:
        return run_dump(
            opened,
            label,
            Output(os.fspath(output), flatten, force, sync, split),
            request,
            registry,
            workers=workers,
            dry_run=dry_run,
            progress=progress,
            reached=reached,
        )
    finally:
        if not own:
            opened.close()


def verify(
    path: Path,
    *,
    arch: str | None = None,
    options: Options | None = None,
    workers: int | None = None,
    progress: ProgressCallback | None = None,
) -> VerifyReport:
    """Check every structure and every page of a vmcore.

    Args:
        path: The file, or the parts of one separated by commas.
        arch: An architecture's name, which overrides what the source says.
        options: Options of the plugin that reads it.
        workers: Processes that read; default: the CPUs this process may use.
        progress: Told how far the run is.

    Raises:
        PydumpError: The file cannot be opened at all.
    """
    from pydump.engine.verify import run_verify

    with _captured(path, arch=arch, options=options, progress=progress) as opened:
        return run_verify(opened.source, os.fspath(path), installed(), arch=arch, workers=workers, progress=progress)


def survey(
    source: Path | MemoryImage,
    *,
    arch: str | None = None,
    options: Options | None = None,
    max_cells: int = 4096,
    by_class: bool = False,
    workers: int | None = None,
    progress: ProgressCallback | None = None,
) -> MapReport:
    """What guest memory is made of, cell by cell: zeros, data and how well it compresses, what was left out.

    Args:
        source: As for :func:`open`.
        arch: An architecture's name, for sources that say none.
        options: Options of the plugin that reads it.
        max_cells: The map has at most so many cells.
        by_class: Sort pages into classes, such as free and cache, as filters know them.
        workers: Processes that look; default: the CPUs this process may use.
        progress: Told how far the run is.

    Raises:
        PydumpError: It cannot be opened or read.
    """
    from pydump.engine.survey import run_survey

    with _captured(source, arch=arch, options=options, progress=progress) as opened:
        guest = opened.known
        label = _label(source)
        classes = opened.classes() if by_class else None
        report = run_survey(opened.source, label, guest, max_cells, classes=classes, workers=workers, progress=progress)
        return replace(report, warnings=opened.source.warnings())


def compare(
    left: Path,
    right: Path,
    *,
    arch: str | None = None,
    options: Options | None = None,
    ignore_excluded: bool = False,
    workers: int | None = None,
    progress: ProgressCallback | None = None,
) -> CompareReport:
    """Compare two vmcores: are they the same guest memory and notes?

    Args:
        left: One vmcore.
        right: The other.
        arch: An architecture's name, for sources that say none.
        options: Options of the plugins that read them. Each takes its own.
        ignore_excluded: Do not count what one of them left out by choice: is a filtered dump else the same?
        workers: Processes that compare; default: the CPUs this process may use.
        progress: Told how far the run is.

    Raises:
        PydumpError: One of them cannot be opened or read.
    """
    from pydump.engine.compare import run_compare

    with (
        _captured(left, options=options, shared=True, progress=progress) as a,
        _captured(right, options=options, shared=True, progress=progress) as b,
    ):
        report = run_compare(
            a.source,
            b.source,
            (os.fspath(left), os.fspath(right)),
            installed(),
            arch=arch,
            ignore_excluded=ignore_excluded,
            workers=workers,
            progress=progress,
        )
        sides = ((os.fspath(left), a), (os.fspath(right), b))
        warnings = (f"{path}: {line}" for path, side in sides for line in side.source.warnings())
        return replace(report, warnings=tuple(warnings))


def follow(
    source: Path, *, arch: str | None = None, options: Options | None = None
) -> Generator[Record | LogNotice, None, None]:
    """The kernel log of a guest that runs: its records, the oldest first, and then new ones as they appear.

    It does not end by itself; close the iterator. The guest is not paused, and has no other client at this monitor.

    Args:
        source: As for :func:`open`; a guest that runs, such as ``qmp:SOCKET``.
        arch: An architecture's name, which overrides what the source says.
        options: Plugin options, as for :func:`open`.

    Raises:
        PydumpError: It is not a guest that runs, its memory cannot be read meanwhile, or it is gone.
    """
    from pydump.engine.follow import follow as follow_log

    return follow_log(os.fspath(source), installed(), arch=arch, options=options)


def sizes(source: Path | MemoryImage, *, arch: str | None = None, options: Options | None = None) -> SizeReport:
    """What each dump level would leave of a guest: pages, bytes, and an estimate of their compressed size.

    Args:
        source: As for :func:`open`.
        arch: An architecture's name, for sources that say none.
        options: Options of the plugin that reads it.

    Raises:
        PydumpError: It cannot be opened or read, or the guest does not say what its pages are.
    """
    from pydump.engine.sizes import run_sizes

    registry = installed()
    label = _label(source)
    with _captured(source, arch=arch, options=options) as opened:
        guest, known, _ = opened._searched()
        return run_sizes(opened.source, label, guest, known, registry)
