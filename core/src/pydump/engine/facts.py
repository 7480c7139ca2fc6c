"""Completes the facts of a guest: its architecture, VMCOREINFO, the kernel's names, registers that the user gives."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from pydump.engine.generic import GenericArch
from pydump.engine.salvage import filled
from pydump.errors import PlanError, PydumpError
from pydump.interfaces.arch import SMALLEST_PAGE, Arch
from pydump.interfaces.executor import Executor
from pydump.interfaces.image import KnowsRegisters, MemoryImage, ReadsHeads
from pydump.kernel.memory import KernelMemory
from pydump.kernel.utsname import read_utsname
from pydump.layout.registers import NoteKind, given_kinds, missing_registers, odd_notes
from pydump.layout.windows import windows_of
from pydump.model.guest import Cpu, Guest
from pydump.model.request import Request
from pydump.registry import Registry


class Facts(NamedTuple):
    """What is known of a guest.

    Attributes:
        guest: The guest, complete: byte order, class, page size and phys_base are set.
        arch: Its architecture; :class:`~pydump.engine.generic.GenericArch` where no plugin knows it.
        warnings: What the user should know, a line each.
    """

    guest: Guest
    arch: type[Arch]
    warnings: tuple[str, ...] = ()


def require_linux(guest: Guest, what: str) -> None:
    """Refuse a guest that runs Windows.

    Args:
        guest: Its completed facts.
        what: What there is of Linux only, as in "dmesg reads the log of Linux".

    Raises:
        PlanError: It runs Windows.
    """
    if guest.windows is not None:
        raise PlanError(f"the guest runs Windows, and {what}")


def find_arch(guest: Guest, registry: Registry) -> type[Arch]:
    """The architecture of a guest: by name, by e_machine, by uname, by its notes; the generic one if none is found."""
    arches = registry.arches()
    if guest.arch is not None:
        return registry.arch(guest.arch)
    if guest.machine is not None:
        same = [cls for cls in arches if cls.machine == guest.machine]
        return (
            next((c for c in same if c.byte_order == guest.byte_order and c.elf_class == guest.elf_class), None)
            or next((c for c in same if c.elf_class == guest.elf_class), None)
            or next(iter(same), GenericArch)
        )
    machine = guest.utsname.machine.lower()
    named = next((cls for cls in arches if machine == cls.name or machine in cls.aliases), None)
    owners = [cls for cls in arches if cls.owns(guest)]
    # The notes are more reliable than the name: QEMU names its target, which may run a kernel of another architecture.
    if named is None or (named not in owners and len(owners) == 1):
        return owners[0] if len(owners) == 1 else GenericArch
    return named


def is_unknown(guest: Guest, wanted: str | None, registry: Registry) -> bool:
    """Whether neither the image nor the user states the architecture, or enough to do without.

    Args:
        guest: What the image states.
        wanted: An architecture's name that the user gives, or None.
        registry: What is installed.
    """
    silent = wanted is None and (guest.byte_order is None or guest.elf_class is None)
    return silent and find_arch(guest, registry) is GenericArch


def complete(guest: Guest, wanted: str | None, registry: Registry, *, needed: bool = True) -> Facts:
    """Fill in what the image does not state, by the architecture.

    Args:
        guest: What the image states.
        wanted: An architecture's name, which overrides what the image states, or None.
        registry: What is installed.
        needed: Whether the architecture must be known. An output that holds memory alone does without.

    Raises:
        PlanError: The architecture is not known and the image does not state enough to do without, or ``wanted``
            contradicts what it states.
    """
    guest = replace(guest, windows=guest.windows or windows_of(guest.notes))
    if is_unknown(guest, wanted, registry):
        if not needed:
            assumed = GenericArch.complete(guest)
            return Facts(replace(assumed, byte_order=guest.byte_order, elf_class=guest.elf_class), GenericArch)
        known = ", ".join(registry.names("arch"))
        raise PlanError(
            "the source does not name the guest's architecture",
            hint=f"name it with --arch; available: {known}"
            if known
            else "install the architecture's plugin, such as pydump-arch-x86-64, and name it with --arch",
        )
    arch = find_arch(guest, registry) if wanted is None else registry.arch(wanted)
    warnings: tuple[str, ...] = ()
    if wanted:
        _check_wanted(arch, guest, registry)
        guest = replace(guest, machine=None, utsname=replace(guest.utsname, machine=""))
        guest = replace(guest, byte_order=guest.byte_order or arch.byte_order)
    elif arch is GenericArch:
        machine = guest.utsname.machine or "unknown"
        named = f"e_machine {guest.machine}" if guest.machine is not None else f"machine {machine!r}"
        warning = (
            f"no architecture plugin knows this guest ({named}): facts are taken as the source states them; "
            "install its pydump-arch plugin to have them checked and completed"
        )
        warnings = (warning,)
    guest, lacking = _with_own_cpus(guest, arch)
    guest = arch.complete(guest)
    if guest.elf_class == 32 and guest.memory.end > 1 << 32:
        guest = replace(guest, elf_class=64)
    return Facts(guest, arch, (*warnings, *lacking, *odd_notes(arch.note_kinds, guest.notes)))


def _check_wanted(arch: type[Arch], guest: Guest, registry: Registry) -> None:
    """Refuse an architecture that contradicts what the image states."""
    said = next((cls.name for cls in registry.arches() if cls.machine == guest.machine), f"e_machine {guest.machine}")
    hint = "leave --arch out"
    if guest.machine not in (None, arch.machine):
        raise PlanError(f"--arch says {arch.name}, but the source is a guest of {said}", hint=hint)
    if guest.elf_class is not None and guest.elf_class < arch.elf_class:
        raise PlanError(f"--arch says {arch.name}, but the source is of {guest.elf_class} bits", hint=hint)
    if guest.byte_order not in (None, arch.byte_order) and not arch.bi_endian:
        raise PlanError(f"--arch says {arch.name}, but the source is {guest.byte_order}-endian", hint=hint)


def stated_facts(guest: Guest, request: Request, registry: Registry, *, needed: bool = True) -> Facts:
    """The facts without a look at memory: what the image states, and what the user gives in its place.

    Args:
        guest: What the image states.
        request: What the user asks for.
        registry: What is installed.
        needed: Whether the architecture must be known.

    Raises:
        PlanError: What the user gives contradicts itself or what the image states.
    """
    given = _with_given(guest, request, registry)
    guest, arch, warnings = complete(given, request.arch, registry, needed=needed)
    return Facts(replace(guest, sections=arch.elf_sections(guest)), arch, warnings)


def searched_facts(
    image: MemoryImage, request: Request, registry: Registry, *, executor: Executor | None = None, needed: bool = True
) -> Facts:
    """The facts, and what is not stated from memory: VMCOREINFO and the kernel's names.

    Args:
        image: The guest.
        request: What the user asks for.
        registry: What is installed.
        executor: Whose workers search; default: as many local ones as there are CPUs.
        needed: Whether the architecture must be known. Where it need not and is not, nothing is searched.

    Raises:
        PlanError: As :func:`stated_facts`; or memory should hold VMCOREINFO, and does not.
    """
    guest = _with_given(image.guest(), request, registry)
    in_memory = request.vmcoreinfo == "memory"
    if not needed and not in_memory and is_unknown(guest, request.arch, registry):
        return complete(guest, request.arch, registry, needed=False)
    if guest.vmcoreinfo is None and not request.no_vmcoreinfo and (request.compat is None or in_memory):
        guest = with_vmcoreinfo(image, guest, request.arch, registry, executor=executor)
    if in_memory and guest.vmcoreinfo is None:
        raise PlanError("guest memory holds no VMCOREINFO", hint="leave --vmcoreinfo memory out")
    guest, arch, warnings = with_registers(image, complete(guest, request.arch, registry))
    if request.compat is None:
        guest = with_utsname(image, guest, arch)
    return Facts(replace(guest, sections=arch.elf_sections(guest)), arch, warnings)


def _with_given(guest: Guest, request: Request, registry: Registry) -> Guest:
    """``guest`` with the registers and the VMCOREINFO that the user gives instead of its own."""
    if request.no_vmcoreinfo and request.vmcoreinfo is not None:
        raise PlanError("--vmcoreinfo and --no-vmcoreinfo exclude each other", hint="leave one of the two out")
    if request.cpus is not None:
        guest = _with_cpus(guest, tuple(request.cpus), request.arch, registry)
    if request.vmcoreinfo is not None:
        guest = replace(guest, vmcoreinfo=None if request.vmcoreinfo == "memory" else request.vmcoreinfo)
    return guest


def _with_cpus(guest: Guest, cpus: tuple[Cpu, ...], wanted: str | None, registry: Registry) -> Guest:
    """``guest`` with the notes of ``cpus`` instead of its own. Done before it is completed: other facts follow."""
    arch = find_arch(guest, registry) if wanted is None else registry.arch(wanted)
    if arch is GenericArch:
        raise PlanError("registers need an architecture", hint="name it with --arch")
    _check_registers(arch, given_kinds(arch.note_kinds, cpus), cpus)
    return _with_notes_of(guest, arch, cpus)


def _with_own_cpus(guest: Guest, arch: type[Arch]) -> tuple[Guest, tuple[str, ...]]:
    """``guest`` with notes of the registers that the image holds in its own form, and a warning of those it lacks."""
    if not guest.cpus:
        return guest, ()
    if arch is GenericArch:
        left_out = f"the registers of {len(guest.cpus)} CPUs are left out: no architecture plugin knows them"
        return replace(guest, cpus=(), n_cpus=len(guest.cpus)), (left_out,)
    kinds = given_kinds(arch.note_kinds, guest.cpus)
    missing = list(dict.fromkeys(name for cpu in guest.cpus for name in missing_registers(kinds, cpu)))
    names = " ".join(missing[:8]) + (" …" if len(missing) > 8 else "")
    lacking = f"the source lacks {len(missing)} registers of its CPUs, which are 0 in the notes: {names}"
    return _with_notes_of(guest, arch, guest.cpus), (lacking,) if missing else ()


def _with_notes_of(guest: Guest, arch: type[Arch], cpus: tuple[Cpu, ...]) -> Guest:
    """``guest`` with the notes of ``cpus`` instead of its own."""
    others = tuple(note for note in guest.notes if not any(kind.matches(note) for kind in arch.note_kinds))
    kinds = given_kinds(arch.note_kinds, cpus)
    made = arch.cpu_notes(cpus, guest.byte_order or arch.byte_order)
    notes = tuple(note for note in made if any(kind.matches(note) for kind in kinds))
    return replace(guest, notes=notes + others, cpus=(), n_cpus=len(cpus))


def _check_registers(arch: type[Arch], kinds: tuple[NoteKind, ...], cpus: tuple[Cpu, ...]) -> None:
    """Refuse CPUs with gaps: a register left out by mistake would be 0 in the dump without notice."""
    for cpu in cpus:
        missing = missing_registers(kinds, cpu)
        if missing and not set(cpu.registers) - {r.name for r in arch.registers}:
            raise PlanError(
                f"CPU {cpu.index} lacks {len(missing)} of {arch.name}'s registers: {' '.join(missing)}",
                hint=f"pydump --arch {arch.name} lists them all; write 0 for what is not known",
            )


def with_vmcoreinfo(
    image: MemoryImage, guest: Guest, arch: str | None, registry: Registry, *, executor: Executor | None = None
) -> Guest:
    """``guest`` with the VMCOREINFO that lies in its RAM, if there is one.

    Args:
        image: The memory.
        guest: What the image states.
        arch: An architecture's name, which overrides what the image states, or None.
        registry: What is installed.
        executor: Whose workers search; default: as many local ones as there are CPUs.
    """
    from pydump.engine.vmcoreinfo import find_vmcoreinfo

    completed = complete(guest, arch, registry).guest
    if completed.windows is not None:
        return guest
    readable = image if isinstance(image, ReadsHeads) else filled(image, completed.page_size or SMALLEST_PAGE)
    found = [
        replace(guest, vmcoreinfo=candidate)
        for candidate in find_vmcoreinfo(readable, guest.memory, completed.byte_order or "little", executor=executor)
    ]
    if len(found) > 1:
        found.sort(key=lambda one: not _is_running(image, *complete(one, arch, registry)[:2]))
    return found[0] if found else guest


def _is_running(image: MemoryImage, guest: Guest, arch: type[Arch]) -> bool:
    """Whether the kernel that VMCOREINFO describes runs: its page tables and its release are where it says."""
    try:
        return read_utsname(KernelMemory.of(image, guest, arch)) is not None
    except PydumpError:  # its page tables are not there
        return False


def with_registers(image: MemoryImage, facts: Facts) -> Facts:
    """Complete ``facts`` with the registers that an image holds outside of notes, and say what those lack."""
    guest, arch, warnings = facts
    if not isinstance(image, KnowsRegisters) or arch.count_cpus(guest.notes):
        return facts
    guest, lacking = _with_own_cpus(replace(guest, cpus=image.cpus(guest, arch)), arch)
    return Facts(guest, arch, warnings + lacking)


def with_utsname(image: MemoryImage, guest: Guest, arch: type[Arch]) -> Guest:
    """``guest``, which is complete, with the kernel's names from memory where the image does not state them."""
    uts = guest.utsname
    if guest.vmcoreinfo is None or (uts.nodename and uts.version not in ("", "unknown")):
        return guest
    try:
        found = read_utsname(KernelMemory.of(image, guest, arch))
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
