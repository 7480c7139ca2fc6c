"""Decides which pages a dump leaves out: what was asked for, what a filter finds, and whether that can be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pydump.engine.salvage import filled
from pydump.engine.scan import Piece, data_pages, scan
from pydump.errors import PlanError, PydumpError
from pydump.interfaces.executor import Executor
from pydump.interfaces.filter import Classified, Filter
from pydump.model.check import Check
from pydump.model.memory import MemoryMap, Ranges
from pydump.options import chosen_options
from pydump.plugins import returned

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pydump.interfaces.arch import Arch
    from pydump.interfaces.image import MemoryImage
    from pydump.model.guest import Guest
    from pydump.model.request import Request
    from pydump.registry import Registry

#: The bits of a dump level, as makedumpfile numbers them, and the classes that each leaves out.
LEVELS: Final = {1: ("zero",), 2: ("cache",), 4: ("cache", "cache-private"), 8: ("user",), 16: ("free",)}
#: The highest dump level.
MAX_LEVEL: Final = sum(LEVELS)
#: The class that needs no filter: pages whose bytes are all zero.
ZERO: Final = "zero"


@dataclass(frozen=True, slots=True)
class Exclusion:
    """What is left out, and why.

    Attributes:
        excluded: Pages, as ranges of paddr.
        level: The dump level that says so, for formats that record one.
        sizes: Bytes of each class that was left out; a page in two classes counts in the first.
        short_size: Bytes that would be left out, and are kept because their runs are short.
        checks: What the filter checked.
        trusted: Did all checks pass? If not, nothing is left out unless the user insists.
        warnings: What the user should know, a line each.
    """

    excluded: Ranges = field(default_factory=Ranges.empty)
    level: int = 0
    sizes: tuple[tuple[str, int], ...] = ()
    short_size: int = 0
    checks: tuple[Check, ...] = ()
    trusted: bool = True
    warnings: tuple[str, ...] = ()


class LeftOut(NamedTuple):
    """What a capture left out of a live guest's memory.

    Attributes:
        excluded: Ranges of paddr that were not captured.
        found: The classification that says so. What it was made from may have been left out.
    """

    excluded: Ranges
    found: list[Classified]


def classes_of_level(level: int) -> frozenset[str]:
    """The classes that a dump level leaves out.

    Raises:
        PlanError: There is no such level.
    """
    if not 0 <= level <= MAX_LEVEL:
        raise PlanError(
            f"there is no dump level {level}", hint=f"a level is 0 to {MAX_LEVEL}: a sum of 1, 2, 4, 8 and 16"
        )
    return frozenset(name for bit, names in LEVELS.items() if level & bit for name in names)


def classes_of(request: Request) -> frozenset[str]:
    """The classes that a request leaves out, by name and by its dump level.

    Raises:
        PlanError: There is no such level.
    """
    return frozenset(request.exclude) | classes_of_level(request.dump_level or 0)


def level_of_classes(classes: frozenset[str]) -> int:
    """The dump level that leaves out ``classes``, as far as levels know them."""
    return sum(bit for bit, names in LEVELS.items() if names[-1] in classes)


def check_classes(classes: frozenset[str], registry: Registry) -> None:
    """Refuse classes that no installed filter knows.

    Raises:
        PlanError: One of them is unknown; the hint says which there are, or what to install.
    """
    known = {ZERO, *(name for cls in registry.filters() for name in cls.classes)}
    unknown = sorted(classes - known)
    if unknown:
        hint = (
            f"available: {', '.join(sorted(known))}" if registry.filters() else registry.install_hint("filter", "linux")
        )
        raise PlanError(f"no installed filter knows pages of class {unknown[0]!r}", hint=hint)


def exclude(
    source: MemoryImage,
    guest: Guest,
    arch: type[Arch],
    classes: frozenset[str],
    registry: Registry,
    *,
    read_zeros: bool,
    least: int,
    anyway: bool,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    executor: Executor | None = None,
    left_out: LeftOut | None = None,
) -> Exclusion:
    """What leaving out ``classes`` leaves out of a guest.

    Args:
        source: Guest memory.
        guest: The completed facts.
        arch: The guest's architecture.
        classes: What to leave out.
        registry: What is installed.
        read_zeros: Must zero pages be looked for? Formats that store all of them as one need not know them.
        least: Runs shorter than this many bytes are kept.
        anyway: Leave pages out even where a check failed.
        options: Options by plugin name, then by field.
        executor: Whose workers look; default: as many local ones as there are CPUs.
        left_out: What was left out when the guest was captured; then nothing is classified again.

    Raises:
        PlanError: The guest does not say what its pages are.
    """
    wanted = classes - {ZERO}
    if left_out:
        found = left_out.found
    elif wanted:
        found = classified(source, guest, arch, wanted, registry, options)
    else:
        found = _always(source, guest, arch, registry, options or {})
    chosen = {name: ranges for one in found for name, ranges in one.classes.items() if name in classes | one.always}
    checks = tuple(check for one in found for check in one.checks)
    warnings = tuple(warning for one in found for warning in one.warnings)
    trusted = all(check.passed for check in checks)
    if not trusted:
        failed = "; ".join(f"{check.name}: {check.detail}" for check in checks if not check.passed)
        kept = "pages are left out anyway" if anyway else "nothing is left out (--filter-anyway insists)"
        warnings += (f"the filter's rules do not fit this guest ({failed}): {kept}",)
        if not anyway:
            return Exclusion(checks=checks, trusted=False, warnings=warnings)
    held = guest.memory.ranges().subtract(source.excluded()).subtract(source.unreadable())
    if left_out:  # it counts as left out by this run, not by the source
        held = held.union(left_out.excluded)
    excluded = Ranges.empty()
    for ranges in chosen.values():
        excluded = excluded.union(ranges)
    if ZERO in classes and read_zeros:
        page_size = guest.page_size or 4096
        looked_at = filled(source, page_size, 0xFF)  # a damaged page is not one of zeros
        chosen[ZERO] = zero_ranges(looked_at, held.subtract(excluded), page_size, executor=executor)
        excluded = excluded.union(chosen[ZERO])
    excluded = excluded.intersect(held)
    chosen_size = excluded.size
    excluded = Ranges(excluded.array[excluded.array[:, 1] - excluded.array[:, 0] >= least])
    sizes, rest = [], excluded
    for name, ranges in chosen.items():
        sizes.append((name, rest.intersect(ranges).size))
        rest = rest.subtract(ranges)
    return Exclusion(
        excluded, level_of_classes(classes), tuple(sizes), chosen_size - excluded.size, checks, trusted, warnings
    )


def _always(
    source: MemoryImage,
    guest: Guest,
    arch: type[Arch],
    registry: Registry,
    options: Mapping[str, Mapping[str, Any]],
) -> list[Classified]:
    """What filters leave out at level 0, too: poisoned pages, for example. Nothing where a filter cannot be sure."""
    found: list[Classified] = []
    if guest.arch is None:
        return found
    for cls in registry.filters():
        if not cls.knows(guest):
            continue
        try:
            one = _found_by(cls, source, guest, arch, options)
        except PydumpError:  # such pages are kept; all that was asked for can be done
            continue
        if all(check.passed for check in one.checks):
            found.append(one)
    return found


def classified(
    source: MemoryImage,
    guest: Guest,
    arch: type[Arch],
    classes: frozenset[str],
    registry: Registry,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Classified]:
    """What each filter finds that knows one of ``classes``.

    Args:
        source: Guest memory.
        guest: The completed facts.
        arch: The guest's architecture.
        classes: What is looked for.
        registry: What is installed.
        options: Options by plugin name, then by field.

    Raises:
        PlanError: No filter finds it in this guest.
    """
    if not classes:
        return []
    wanted: list[type[Filter]] = [cls for cls in registry.filters() if classes & set(cls.classes) and cls.knows(guest)]
    unknown = classes - {name for cls in wanted for name in cls.classes}
    if unknown or guest.arch is None:
        raise PlanError(
            f"no filter can find the {', '.join(sorted(unknown or classes))} pages of this guest",
            hint=_why_not(guest, registry, classes),
        )
    return [_found_by(cls, source, guest, arch, options or {}) for cls in wanted]


def _found_by(
    cls: type[Filter],
    source: MemoryImage,
    guest: Guest,
    arch: type[Arch],
    options: Mapping[str, Mapping[str, Any]],
) -> Classified:
    """What a filter finds, with its options."""
    chosen = chosen_options(cls.name, cls.Options, options)
    return returned(cls.classify(source, guest, arch, chosen), Classified, cls.classify)


def _why_not(guest: Guest, registry: Registry, classes: frozenset[str]) -> str:
    """Why no filter can sort a guest's pages, and what to do."""
    if guest.arch is None:
        return "this needs the architecture's plugin"
    if guest.windows is not None:
        return "the guest runs Windows, whose pages no installed filter knows"
    if guest.vmcoreinfo is None:
        return "it has no VMCOREINFO; if it runs Linux, pydump dump --vmcoreinfo FILE takes that of its kernel"
    asked = [cls.name for cls in registry.filters() if classes & set(cls.classes)]
    return f"not a guest for {' or '.join(asked)}"


@dataclass(frozen=True, slots=True)
class _ZeroPages:
    """Finds the pages whose bytes are all zero, as an array of starts and ends, shape (n, 2)."""

    page_size: int

    def examine(self, piece: Piece) -> NDArray[np.uint64]:
        import numpy as np

        from pydump.layout.zero import zero_pages

        if piece.hole:
            return np.array(piece.runs, np.uint64)
        starts = piece.pages(self.page_size)[zero_pages(piece.read(), self.page_size)]
        return Ranges.of_array(np.stack([starts, starts + np.uint64(self.page_size)], axis=1)).array


def zero_ranges(source: MemoryImage, ranges: Ranges, page_size: int, *, executor: Executor | None = None) -> Ranges:
    """The zero pages that lie within ``ranges`` as a whole; holes that the source knows are not read."""
    import numpy as np

    pages = ranges.whole_pages(page_size)
    data = data_pages(source, pages, page_size)
    found = list(scan(source, data, _ZeroPages(page_size), unit=page_size, executor=executor))
    zeros = Ranges.of_array(np.concatenate(found)) if found else Ranges.empty()
    return zeros.union(pages.subtract(data))


def kernel_ram(source: MemoryImage, guest: Guest, arch: type[Arch]) -> MemoryMap:
    """The guest's RAM without firmware and device memory: what the kernel has struct pages for.

    Raises:
        PlanError: The guest does not say where its struct pages are.
    """
    from pydump.engine.facts import require_linux
    from pydump.kernel.memory import KernelMemory
    from pydump.kernel.vmemmap import struct_pages

    require_linux(guest, "--ram-only reads the struct pages of Linux")
    kernel = KernelMemory.of(source, guest, arch)
    page = kernel.page_size
    known = Ranges.of((run.pfn * page, (run.pfn + run.count) * page) for run in struct_pages(kernel, arch))
    parts = (known.clip(block.paddr, block.end) for block in guest.memory)
    return MemoryMap.of((start, end - start) for part in parts for start, end in part)
