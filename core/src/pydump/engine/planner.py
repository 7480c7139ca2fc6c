"""Makes the plan of a dump from the request and the facts, and refuses what cannot be done."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from pydump.engine.defects import defects
from pydump.engine.exclude import ZERO, Exclusion, LeftOut, check_classes, classes_of, exclude, kernel_ram
from pydump.engine.facts import Facts, searched_facts, stated_facts
from pydump.engine.losses import losses, refuse_zeros_for_pages
from pydump.engine.mappings import kernel_mappings, linear_mappings
from pydump.engine.tables import check_tables
from pydump.engine.unused import refuse_options
from pydump.errors import PlanError, SourceError, UnsupportedError
from pydump.interfaces.arch import SMALLEST_PAGE, Arch
from pydump.interfaces.compressor import Compressor
from pydump.interfaces.executor import Executor
from pydump.interfaces.format import Format
from pydump.interfaces.image import MemoryImage
from pydump.interfaces.writer import Writer
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap, Ranges
from pydump.model.plan import Plan
from pydump.model.request import DEFAULT_FORMAT, Request
from pydump.options import chosen_options
from pydump.plugins import returned
from pydump.registry import Registry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Chosen(NamedTuple):
    """What the request decides by itself, whatever the guest is.

    Attributes:
        request: What the user asks for.
        classes: The classes of pages that are left out.
        format: The format.
        compressor: The compressor, or None to store pages as they are.
        options: The format's options.
    """

    request: Request
    classes: frozenset[str]
    format: type[Format]
    compressor: Compressor | None
    options: Any


class Planned(NamedTuple):
    """A plan, and the plugin instances that carry it out."""

    plan: Plan
    exclusion: Exclusion
    writer: Writer
    compressor: Compressor | None


def choose(request: Request, registry: Registry) -> Chosen:
    """Choose the plugins that a request names.

    Args:
        request: What the user asks for.
        registry: What is installed.

    Raises:
        PlanError: The request contradicts itself, or asks for what is not installed.
    """
    name = DEFAULT_FORMAT if request.format is None else request.format
    request, choice = replace(request, format=name), registry.format(name)
    if not choice.format.writes():
        others = ", ".join(cls.name for cls in registry.formats() if cls.writes())
        raise UnsupportedError(f"format {choice.format.name} can be read but not written", hint=f"available: {others}")
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
    if request.compat and not choice.format.qemu_writes:
        raise PlanError(f"QEMU does not write {choice.format.name}", hint="leave --compat out")
    if request.filter_anyway and not request.exclude and request.dump_level is None:
        raise PlanError("--filter-anyway has no effect where nothing is left out", hint="add -d N or --exclude CLASSES")
    classes = classes_of(request)
    if request.compat and (classes or request.ram_only):
        raise PlanError("--compat qemu cannot leave pages out, since QEMU does not", hint="leave --compat out")
    check_classes(classes, registry)
    idle = (cls for cls in registry.filters() if not classes & set(cls.classes))
    refuse_options(request.options, "filter", idle, "none of its pages are left out")
    return Chosen(request, classes, choice.format, compressor, _format_options(request, choice.format, registry))


def outline(image: MemoryImage, chosen: Chosen, registry: Registry) -> Planned:
    """The plan as far as it can be made without reading memory.

    It names what a live guest must be captured for, and refuses what cannot be done before the guest is touched.

    Args:
        image: What is read.
        chosen: What the request decides by itself.
        registry: What is installed.

    Raises:
        PlanError: The request cannot be carried out.
    """
    facts = stated_facts(image.guest(), chosen.request, registry, needed=_needs_arch(chosen))
    return _finished(image, chosen, facts, trusted=True)


def make_plan(
    image: MemoryImage,
    chosen: Chosen,
    registry: Registry,
    *,
    executor: Executor | None = None,
    left_out: LeftOut | None = None,
    trusted: bool = False,
) -> Planned:
    """Plan how ``image`` is written.

    Args:
        image: What is read.
        chosen: What the request decides by itself.
        registry: What is installed.
        executor: Whose workers search; default: as many local ones as there are CPUs.
        left_out: What was left out when the guest was captured.
        trusted: Whether the map of RAM cannot be damaged, because a running guest has it.

    Raises:
        PlanError: The request cannot be carried out; nothing was written.
    """
    request = chosen.request
    facts = searched_facts(image, request, registry, executor=executor, needed=_needs_arch(chosen))
    guest, arch, warnings = facts
    exclusion = Exclusion()
    level = None if request.exclude else request.dump_level
    if chosen.classes or (level is not None and not request.compat):
        exclusion = exclude(
            image,
            guest,
            arch,
            chosen.classes,
            registry,
            read_zeros=not chosen.format.shares_zero_pages,
            least=chosen.format.least_hole,
            anyway=request.filter_anyway,
            options=request.options,
            executor=executor,
            left_out=left_out,
        )
        level = level if exclusion.trusted and level is not None else exclusion.level
        guest = replace(guest, dump_level=guest.dump_level | level)
        warnings += exclusion.warnings
        if chosen.classes == {ZERO} and chosen.format.shares_zero_pages:
            warnings += (f"{chosen.format.name} stores all zero pages as one: to leave them out changes nothing",)
    if request.ram_only:
        with _asked_by("--ram-only"):
            guest = replace(guest, memory=kernel_ram(image, guest, arch))
    mappings = None
    if request.paging:
        with _asked_by("--paging"):
            mappings, incomplete = kernel_mappings(image, guest, arch)
        warnings += incomplete
    return _finished(image, chosen, Facts(guest, arch, warnings), exclusion, mappings, trusted=trusted, look=True)


@contextlib.contextmanager
def _asked_by(option: str) -> Iterator[None]:
    """Name the option that asks for what cannot be done: a dump without it needs none of this."""
    try:
        yield
    except PlanError as error:
        raise PlanError(f"{option}: {error.message}", hint=error.hint) from None


def _needs_arch(chosen: Chosen) -> bool:
    """Whether the guest's architecture must be known: the output names it, or its kernel is read."""
    request = chosen.request
    reads_kernel = chosen.classes - {ZERO} or request.dump_level or request.ram_only or request.paging
    return bool("arch" in chosen.format.carries or reads_kernel)


def _finished(
    image: MemoryImage,
    chosen: Chosen,
    facts: Facts,
    exclusion: Exclusion | None = None,
    mappings: NDArray[np.uint64] | None = None,
    *,
    trusted: bool,
    look: bool = False,
) -> Planned:
    """The plan from all that is known of the guest, and its writer."""
    guest, arch, warnings = facts
    request, exclusion = chosen.request, exclusion or Exclusion()
    if request.compat == "qemu":
        guest = arch.quirks.stated(guest)
    memory = _window(guest.memory, request, image)
    if chosen.format.whole_pages:
        memory, widened = _whole_pages(chosen, memory, guest)
        warnings += widened
    window = memory.ranges()
    load_vaddrs = _load_vaddrs(arch, guest, memory) if request.compat is None else ()
    plain = not request.paging and request.compat is None and not any(difference for _, difference in load_vaddrs)
    if plain and chosen.format.maps_vaddrs:
        mappings = linear_mappings(image)
    # What VMCOREINFO says of the other facts holds even where it is not written.
    written = None if request.no_vmcoreinfo else guest.vmcoreinfo
    plan = Plan(
        guest=replace(guest, memory=memory, vmcoreinfo=written),
        format=chosen.format.name,
        compression=chosen.compressor.name if chosen.compressor else chosen.format.own_compression,
        excluded=image.excluded().union(exclusion.excluded).intersect(window),
        unreadable=_unreadable(image, guest, chosen.format).intersect(window),
        more_lost=image.more_lost(),
        compat=request.compat,
        options=chosen.options,
        # Who says how to compress wants it done.
        take_stored=chosen.compressor is None or not request.options.get(chosen.compressor.name),
        u64_align=arch.u64_align,
        load_vaddrs=load_vaddrs,
        aliases=_aliases(arch, guest) if request.compat is None else (),
        mappings=mappings,
        warnings=warnings,
        fixed=() if request.compat else tuple(defects(image, guest)),
    )
    if look:
        plan = chosen.format.complete(plan, image, arch)
    refuse_zeros_for_pages(chosen.format, plan, chosen.compressor, chosen.classes)
    writer = returned(chosen.format.writer(plan, chosen.compressor), Writer, chosen.format.writer)
    trusted = trusted or request.begin is not None or request.length is not None
    told = losses(chosen.format, plan, writer, arch) + check_tables(image, writer, plan.readable(), trusted=trusted)
    return Planned(replace(plan, warnings=plan.warnings + told), exclusion, writer, chosen.compressor)


def _unreadable(image: MemoryImage, guest: Guest, format_: type[Format]) -> Ranges:
    """What cannot be read. In a format of whole pages, a page of which a part is lost is lost."""
    lost = image.unreadable()
    return lost.page_aligned(guest.page_size or SMALLEST_PAGE) if format_.whole_pages else lost


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
            raise UnsupportedError(
                f"format {request.format} does not compress", hint="leave --compression out, or write --format kdump"
            )
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
    """The options of the chosen format; those of another one would have no effect."""
    others = (cls for cls in registry.formats() if cls is not chosen)
    refuse_options(request.options, "format", others, f"the dump is {chosen.name}")
    return chosen_options(chosen.name, chosen.Options, request.options)


def _window(memory: MemoryMap, request: Request, image: MemoryImage) -> MemoryMap:
    if not memory:
        why = next(iter(image.warnings()), "")
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
        asked = f"in {begin:#x}..{begin + length:#x}" if length else f"from {begin:#x} on"
        raise PlanError(f"there is no guest memory {asked}", hint=f"RAM is at {where}{more}")
    return clipped


def _whole_pages(chosen: Chosen, memory: MemoryMap, guest: Guest) -> tuple[MemoryMap, tuple[str, ...]]:
    """``memory`` widened to whole pages where the request cut one, and a warning that says so."""
    page_size = guest.page_size or SMALLEST_PAGE
    begin, end = memory.blocks[0].paddr, memory.end
    first, last = begin // page_size * page_size, -(-end // page_size) * page_size
    widened = guest.memory.clip(first, last - first)
    if chosen.request.compat == "qemu" or widened == memory:
        return memory, ()
    return widened, (
        f"{chosen.format.name} holds whole pages: it covers {widened.blocks[0].paddr:#x}..{widened.end:#x}",
    )


def _aliases(arch: type[Arch], guest: Guest) -> tuple[tuple[int, int, int], ...]:
    return tuple((m.vaddr, m.paddr, m.size) for m in arch.load_aliases(guest))


def _load_vaddrs(arch: type[Arch], guest: Guest, memory: MemoryMap) -> tuple[tuple[int, int], ...]:
    pairs = [(block.paddr, arch.load_vaddr(guest, block.paddr)) for block in memory]
    return tuple((paddr, vaddr - paddr if vaddr is not None else 0) for paddr, vaddr in pairs)
