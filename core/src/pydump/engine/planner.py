"""Settles every choice before a byte of memory is read, and refuses what cannot be done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from pydump.engine.defects import defects
from pydump.engine.exclude import Exclusion, LeftOut, check_classes, exclude, kernel_ram
from pydump.engine.salvage import filled
from pydump.engine.tables import check_tables
from pydump.engine.unused import refuse_options
from pydump.errors import PlanError, PydumpError, SourceError, UnsupportedError
from pydump.interfaces.arch import Arch
from pydump.interfaces.compressor import Compressor
from pydump.interfaces.format import Format
from pydump.interfaces.image import KnowsVaddrs, MemoryImage
from pydump.interfaces.writer import Writer
from pydump.kernel.memory import KernelMemory
from pydump.kernel.utsname import read_utsname
from pydump.layout.registers import NoteKind, given_kinds, missing_registers, odd_notes
from pydump.model.guest import Cpu, Guest, Utsname
from pydump.model.memory import MemoryMap
from pydump.model.plan import Compat, Plan
from pydump.model.vmcoreinfo import Vmcoreinfo
from pydump.options import with_values
from pydump.registry import Registry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: A page that is mapped at more places than this gets one of them: x86_64's ESPFIX area maps one page 65,536 times.
MAX_ALIASES = 64
#: Differences of vaddr and paddr that a kernel's linear mappings have: that of RAM, and of the kernel's image.
MAX_LINEAR = 4
#: The page size of a guest of which nobody says another.
DEFAULT_PAGE_SIZE = 4096


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asks for.

    Attributes:
        format: A format's name or alias.
        compression: A compressor's name, "none", or None for the format's first that is installed.
        arch: An architecture's name, which overrides what the source says.
        begin: The first paddr wanted, or None for all.
        length: Bytes wanted from ``begin`` on.
        vmcoreinfo: The text to write in place of the source's, "memory" for the one in guest memory, or None.
        no_vmcoreinfo: Write none, and look for none.
        cpus: CPUs whose notes are written in place of the source's, or None.
        paging: Give the segments the guest kernel's virtual addresses.
        compat: "qemu" to write what QEMU would.
        exclude: Classes of pages to leave out: "zero", and what the installed filters know.
        dump_level: The number that says so, for formats that record it; None to derive it from ``exclude``.
        filter_anyway: Leave pages out even where a filter's checks fail.
        ram_only: Leave out firmware and device memory.
        options: Options by plugin name, then by field.
    """

    format: str = "kdump"
    compression: str | None = None
    arch: str | None = None
    begin: int | None = None
    length: int | None = None
    vmcoreinfo: Vmcoreinfo | Literal["memory"] | None = None
    no_vmcoreinfo: bool = False
    cpus: tuple[Cpu, ...] | None = None
    paging: bool = False
    compat: Compat | None = None
    exclude: frozenset[str] = frozenset()
    dump_level: int | None = None
    filter_anyway: bool = False
    ram_only: bool = False
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan, and the plugin instances that carry it out."""

    plan: Plan
    exclusion: Exclusion
    writer: Writer
    compressor: Compressor | None


def make_plan(
    source: MemoryImage,
    request: Request,
    registry: Registry,
    *,
    look: bool = True,
    workers: int | None = None,
    left_out: LeftOut | None = None,
) -> Planned:
    """Settle how ``source`` is written.

    Args:
        source: What is read.
        request: What the user asks for.
        registry: What is installed.
        look: May memory be read for what the source does not say (VMCOREINFO, page tables)?
        workers: Processes that look; default: the CPUs this process may use.
        left_out: What was left out when the guest was captured.

    Raises:
        PlanError: The request cannot be carried out; nothing was written.
    """
    choice = registry.format(request.format)
    registry.check_options(request.options)
    compressor = _compressor(request, choice.format.compressors, choice.compression, registry)
    codec = compressor.name if compressor else None
    codecs = (cls for cls in registry.compressors() if cls.name != codec)
    instead = f"the dump is {f'compressed with {codec}' if codec else 'not compressed'}"
    refuse_options(request.options, "compressor", codecs, instead)
    if request.paging and request.compat == "qemu":
        raise PlanError(
            "virtual addresses are what QEMU gets wrong: --compat qemu writes none", hint="leave one of the two out"
        )
    if request.paging and not choice.format.maps_vaddrs:
        raise UnsupportedError(
            f"format {choice.format.name} has no place for virtual addresses", hint="--format elf has"
        )
    if request.compat and (request.exclude or request.ram_only):
        raise PlanError("QEMU leaves no pages out: --compat qemu cannot", hint="leave --compat out")
    check_classes(request.exclude, registry)
    guest, arch, warnings = facts(source, request, registry, look=look, workers=workers)
    exclusion = Exclusion()
    if look and (request.exclude or (request.dump_level is not None and not request.compat)):
        exclusion = exclude(
            source,
            guest,
            arch,
            request.exclude,
            registry,
            read_zeros=not choice.format.shares_zero_pages,
            least=choice.format.least_hole,
            anyway=request.filter_anyway,
            workers=workers,
            left_out=left_out,
        )
        level = request.dump_level if exclusion.trusted and request.dump_level is not None else exclusion.level
        guest = replace(guest, dump_level=guest.dump_level | level)
        warnings += exclusion.warnings
    if look and request.ram_only:
        guest = replace(guest, memory=kernel_ram(source, guest, arch))
    mappings = None
    if request.paging and look:
        mappings, incomplete = _mappings(source, guest, arch)
        warnings += incomplete
    if request.compat == "qemu" and arch is not None:
        guest = arch.as_qemu(guest)
    memory = _window(guest.memory, request, source)
    if choice.format.whole_pages:
        memory, widened = _whole_pages(memory, guest, request)
        warnings += widened
    window = memory.ranges()
    lost = source.unreadable()
    if choice.format.whole_pages:  # a page of which a part is lost is lost
        lost = lost.page_aligned(guest.page_size or DEFAULT_PAGE_SIZE)
    load_vaddrs = _load_vaddrs(arch, guest, memory) if request.compat is None else ()
    if (
        not request.paging
        and request.compat is None
        and choice.format.maps_vaddrs
        and not any(d for _, d in load_vaddrs)
    ):
        mappings = _linear_mappings(source)
    # What VMCOREINFO says of the other facts holds even where it is not written.
    written = None if request.no_vmcoreinfo else guest.vmcoreinfo
    plan = Plan(
        guest=replace(guest, memory=memory, vmcoreinfo=written),
        format=choice.format.name,
        compression=compressor.name if compressor else "none",
        excluded=source.excluded().union(exclusion.excluded).intersect(window),
        unreadable=lost.intersect(window),
        compat=request.compat,
        options=_format_options(request, choice.format, registry),
        # Who says how to compress wants it done.
        take_stored=compressor is None or not request.options.get(compressor.name),
        u64_align=arch.u64_align if arch else 8,
        load_vaddrs=load_vaddrs,
        aliases=_aliases(arch, guest) if request.compat is None else (),
        mappings=mappings,
        warnings=warnings,
        fixed=() if request.compat else tuple(defects(source, guest)),
    )
    writer = choice.format.writer(plan, compressor)
    wanted = request.begin is not None or request.length is not None
    plan = replace(plan, warnings=plan.warnings + check_tables(source, writer, plan.readable(), wanted=wanted))
    return Planned(plan, exclusion, writer, compressor)


def settle(guest: Guest, wanted: str | None, registry: Registry) -> tuple[Guest, type[Arch] | None, tuple[str, ...]]:
    """Fill in what the source did not say, from the architecture's plugin or, without one, from common sense.

    Args:
        guest: What the source says.
        wanted: An architecture's name, which overrides what the source says, or None.
        registry: What is installed.

    Returns:
        The guest with byte order, class, page size and phys_base set; its architecture, if its plugin is there; and
        warnings, a line each.

    Raises:
        PlanError: The architecture is not known and the source does not say enough to do without.
    """
    arch = registry.arch(wanted) if wanted else find_arch(guest, registry)
    if arch is not None:
        if wanted:
            _check_wanted(arch, guest, registry)
            guest = replace(guest, machine=None, utsname=replace(guest.utsname, machine=""))
            if guest.byte_order is None:
                guest = replace(guest, byte_order=arch.byte_order)
        guest = arch.settle(guest)
        if guest.elf_class == 32 and guest.memory.end > 1 << 32:
            guest = replace(guest, elf_class=64)
        return guest, arch, tuple(odd_notes(arch.note_kinds, guest.notes))
    if guest.byte_order is None or guest.elf_class is None:
        known = ", ".join(registry.names("arch"))
        raise PlanError(
            "the source does not name the guest's architecture",
            hint=f"name it with --arch; available: {known}"
            if known
            else "install the architecture's plugin, such as pydump-arch-x86-64, and name it with --arch",
        )
    vmcoreinfo = guest.vmcoreinfo
    uts = guest.utsname
    settled = replace(
        guest,
        page_size=(vmcoreinfo.page_size if vmcoreinfo else None) or guest.page_size or DEFAULT_PAGE_SIZE,
        phys_base=guest.phys_base or 0,
        utsname=Utsname(
            uts.sysname or "Linux",
            uts.nodename,
            uts.release or (vmcoreinfo.osrelease if vmcoreinfo else None) or "unknown",
            uts.version or "unknown",
            uts.machine or "unknown",
            uts.domainname,
        ),
        n_cpus=guest.n_cpus or sum(note.name == "CORE" and note.type == 1 for note in guest.notes),
    )
    named = f"e_machine {guest.machine}" if guest.machine is not None else f"machine {uts.machine or 'unknown'!r}"
    warning = (
        f"no architecture plugin knows this guest ({named}): facts are taken as the source states them; "
        "install its pydump-arch plugin to have them checked and completed"
    )
    return settled, None, (warning,)


def _check_wanted(arch: type[Arch], guest: Guest, registry: Registry) -> None:
    """Refuse an architecture that contradicts what the source says of itself."""
    said = next((cls.name for cls in registry.arches() if cls.machine == guest.machine), f"e_machine {guest.machine}")
    hint = "leave --arch out"
    if guest.machine not in (None, arch.machine):
        raise PlanError(f"--arch says {arch.name}, and the source is of {said}", hint=hint)
    if guest.elf_class is not None and guest.elf_class < arch.elf_class:
        raise PlanError(f"--arch says {arch.name}, and the source is of {guest.elf_class} bits", hint=hint)
    if guest.byte_order not in (None, arch.byte_order) and not arch.bi_endian:
        raise PlanError(f"--arch says {arch.name}, and the source is {guest.byte_order}-endian", hint=hint)


def facts(
    source: MemoryImage, request: Request, registry: Registry, *, look: bool, workers: int | None = None
) -> tuple[Guest, type[Arch] | None, tuple[str, ...]]:
    """The settled guest; what the user wants overrides what the source says."""
    if request.no_vmcoreinfo and request.vmcoreinfo is not None:
        raise PlanError("--vmcoreinfo and --no-vmcoreinfo exclude each other")
    guest = source.guest()
    if request.cpus is not None:
        guest = _with_cpus(guest, request.cpus, request.arch, registry)
    in_memory = request.vmcoreinfo == "memory"
    if request.vmcoreinfo is not None:
        guest = replace(guest, vmcoreinfo=None if request.vmcoreinfo == "memory" else request.vmcoreinfo)
    if guest.vmcoreinfo is None and look and not request.no_vmcoreinfo and (request.compat is None or in_memory):
        guest = with_vmcoreinfo(source, guest, request.arch, registry, workers=workers)
    if in_memory and look and guest.vmcoreinfo is None:
        raise PlanError("guest memory holds no VMCOREINFO", hint="leave --vmcoreinfo memory out")
    guest, arch, warnings = settle(guest, request.arch, registry)
    if look and request.compat is None:
        guest = with_utsname(source, guest, arch)
    if arch is not None:
        guest = replace(guest, sections=arch.elf_sections(guest))
    return guest, arch, warnings


def _with_cpus(guest: Guest, cpus: tuple[Cpu, ...], wanted: str | None, registry: Registry) -> Guest:
    """``guest`` with the notes of ``cpus`` in place of its own: before it is settled, for they tell about the rest."""
    arch = registry.arch(wanted) if wanted else find_arch(guest, registry)
    if arch is None:
        raise PlanError("registers need an architecture", hint="name it with --arch")
    others = tuple(note for note in guest.notes if not any(kind.matches(note) for kind in arch.note_kinds))
    kinds = given_kinds(arch.note_kinds, cpus)
    _check_registers(arch, kinds, cpus)
    made = arch.cpu_notes(cpus, guest.byte_order or arch.byte_order)
    notes = tuple(note for note in made if any(kind.matches(note) for kind in kinds))
    return replace(guest, notes=notes + others, n_cpus=len(cpus))


def _check_registers(arch: type[Arch], kinds: tuple[NoteKind, ...], cpus: tuple[Cpu, ...]) -> None:
    """Refuse CPUs with gaps: a register left out by mistake would be 0 in the dump, and nobody could tell."""
    for cpu in cpus:
        missing = missing_registers(kinds, cpu)
        if missing and not set(cpu.registers) - {r.name for r in arch.registers}:
            raise PlanError(
                f"CPU {cpu.index} lacks {len(missing)} of {arch.name}'s registers: {' '.join(missing)}",
                hint=f"pydump --arch {arch.name} lists them all; write 0 for what is not known",
            )


def with_vmcoreinfo(
    source: MemoryImage, guest: Guest, arch: str | None, registry: Registry, *, workers: int | None = None
) -> Guest:
    """``guest`` with the VMCOREINFO that lies in its RAM, if there is one.

    Args:
        source: The memory.
        guest: What the source says.
        arch: An architecture's name, which overrides what the source says, or None.
        registry: What is installed.
        workers: Processes that search; default: the CPUs this process may use. Only the process that opened a live
            guest can read it before it is captured: that takes 1.
    """
    from pydump.engine.vmcoreinfo import find_vmcoreinfo

    settled, _, _ = settle(guest, arch, registry)
    readable = filled(source, settled.page_size or DEFAULT_PAGE_SIZE)
    found = [
        replace(guest, vmcoreinfo=candidate)
        for candidate in find_vmcoreinfo(readable, guest.memory, settled.byte_order or "little", workers=workers)
    ]
    if len(found) > 1:
        found.sort(key=lambda one: not _is_running(source, *settle(one, arch, registry)[:2]))
    return found[0] if found else guest


def _is_running(source: MemoryImage, guest: Guest, arch: type[Arch] | None) -> bool:
    """Does the kernel that VMCOREINFO speaks of run: are its page tables and its release where it says they are?"""
    try:
        return read_utsname(KernelMemory.of(source, guest, arch)) is not None
    except PydumpError:  # its page tables are not there
        return False


def with_utsname(source: MemoryImage, guest: Guest, arch: type[Arch] | None) -> Guest:
    """``guest``, whose facts are complete, with the kernel's names from memory where the source does not say them."""
    uts = guest.utsname
    if guest.vmcoreinfo is None or (uts.nodename and uts.version not in ("", "unknown")):
        return guest
    try:
        found = read_utsname(KernelMemory.of(source, guest, arch))
    except PydumpError:
        found = None
    if found is None:
        return guest
    version = uts.version if uts.version not in ("", "unknown") else found.version
    named = replace(
        uts,
        nodename=uts.nodename or found.nodename,
        version=version or uts.version,
        domainname=uts.domainname or found.domainname,
    )
    return replace(guest, utsname=named)


def _mappings(source: MemoryImage, guest: Guest, arch: type[Arch] | None) -> tuple[NDArray[np.uint64], tuple[str, ...]]:
    """The kernel's virtual mappings as rows of vaddr, paddr and size, without heaps of aliases of one page.

    Returns:
        Them, and warnings, a line each.
    """
    import numpy as np

    kernel = KernelMemory.of(source, guest, arch)
    found = kernel.space.mappings()
    rows = np.fromiter((n for m in found for n in (m.vaddr, m.paddr, m.size)), np.uint64).reshape(-1, 3)
    missing = kernel.physical.missing
    warnings = (f"{missing}: what it maps has no virtual address",) if missing else ()
    if not len(rows):
        why = f": {missing}" if missing else ""
        raise PlanError(f"the guest's page tables map nothing{why}", hint="leave --paging out")
    _, first, which, count = np.unique(rows[:, 1:], axis=0, return_index=True, return_inverse=True, return_counts=True)
    keep = count[which.reshape(-1)] <= MAX_ALIASES
    keep[first] = True
    return rows[keep], warnings


def _linear_mappings(source: MemoryImage) -> NDArray[np.uint64] | None:
    """The virtual addresses that the source's maker gave to RAM, if they are those of a linear mapping or two.

    gdb, and drgn for some architectures, know no others. What a QEMU dump with paging=true has is left to --paging:
    makedumpfile and Volatility take no ELF file with the mappings of page tables.
    """
    import numpy as np

    rows = source.mappings() if isinstance(source, KnowsVaddrs) else None
    if rows is None or not 0 < len(np.unique(rows[:, 0] - rows[:, 1])) <= MAX_LINEAR:
        return None
    return rows


def find_arch(guest: Guest, registry: Registry) -> type[Arch] | None:
    """The installed architecture that a guest is of: by name, by e_machine, by uname, by its notes."""
    arches = registry.arches()
    if guest.arch is not None:
        return registry.arch(guest.arch)
    if guest.machine is not None:
        same = [cls for cls in arches if cls.machine == guest.machine]
        return (
            next((c for c in same if c.byte_order == guest.byte_order and c.elf_class == guest.elf_class), None)
            or next((c for c in same if c.elf_class == guest.elf_class), None)
            or next(iter(same), None)
        )
    machine = guest.utsname.machine.lower()
    named = next((cls for cls in arches if machine == cls.name or machine in cls.aliases), None)
    owners = [cls for cls in arches if cls.owns(guest)]
    # The notes know better than the name: QEMU names its target, which may run a kernel of another architecture.
    if named is None or (named not in owners and len(owners) == 1):
        return owners[0] if len(owners) == 1 else None
    return named


def _compressor(
    request: Request, usable: tuple[str, ...], implied: str | None, registry: Registry
) -> Compressor | None:
    wanted = request.compression
    if implied is not None:
        if wanted not in (None, implied):
            raise PlanError(f"--format {request.format} means {implied}, and --compression says {wanted}")
        wanted = implied
    if not usable:
        if wanted not in (None, "none"):
            raise UnsupportedError(f"format {request.format} does not compress", hint="leave --compression out")
        return None
    if wanted == "none":
        return None
    if wanted is None:
        wanted = next((name for name in usable if name in registry.names("compressor")), usable[0])
    compressor = registry.compressor(wanted, dict(request.options.get(wanted, {})))
    if wanted not in usable:
        raise UnsupportedError(
            f"format {request.format} cannot hold {wanted} pages", hint=f"it can hold {', '.join(usable)} and none"
        )
    return compressor


def _format_options(request: Request, chosen: type[Format], registry: Registry) -> Any:
    """The options of the chosen format; those of another one would say nothing."""
    others = (cls for cls in registry.formats() if cls is not chosen)
    refuse_options(request.options, "format", others, f"the dump is {chosen.name}")
    return with_values(chosen.name, chosen.Options(), dict(request.options.get(chosen.name, {})))


def _window(memory: MemoryMap, request: Request, source: MemoryImage) -> MemoryMap:
    if not memory:
        why = next(iter(source.warnings()), "")
        raise SourceError(f"the source holds no guest memory{f': {why}' if why else ''}")
    if request.begin is None and request.length is None:
        return memory
    begin = request.begin or 0
    if request.length == 0 or (request.length or 0) < 0 or begin < 0:
        raise PlanError("--length must be at least 1 and --begin at least 0")
    length = request.length if request.length is not None else max(0, memory.end - begin)
    clipped = memory.clip(begin, length)
    if not clipped:
        where = ", ".join(f"{block.paddr:#x}..{block.end:#x}" for block in memory.blocks[:4])
        more = ", …" if len(memory) > 4 else ""
        raise PlanError(f"there is no guest memory in {begin:#x}..{begin + length:#x}", hint=f"RAM is at {where}{more}")
    return clipped


def _whole_pages(memory: MemoryMap, guest: Guest, request: Request) -> tuple[MemoryMap, tuple[str, ...]]:
    """``memory`` widened to whole pages where the request cut one, and a warning that says so."""
    page_size = guest.page_size or DEFAULT_PAGE_SIZE
    begin, end = memory.blocks[0].paddr, memory.end
    first, last = begin // page_size * page_size, -(-end // page_size) * page_size
    widened = guest.memory.clip(first, last - first)
    if request.compat == "qemu" or widened == memory:
        return memory, ()
    return widened, (f"a kdump holds whole pages: it covers {widened.blocks[0].paddr:#x}..{widened.end:#x}",)


def _aliases(arch: type[Arch] | None, guest: Guest) -> tuple[tuple[int, int, int], ...]:
    return tuple((m.vaddr, m.paddr, m.size) for m in arch.load_aliases(guest)) if arch else ()


def _load_vaddrs(arch: type[Arch] | None, guest: Guest, memory: MemoryMap) -> tuple[tuple[int, int], ...]:
    if arch is None:
        return ()
    pairs = [(block.paddr, arch.load_vaddr(guest, block.paddr)) for block in memory]
    return tuple((paddr, vaddr - paddr if vaddr is not None else 0) for paddr, vaddr in pairs)
