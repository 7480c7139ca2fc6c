"""What a dump knows of one address: is it there, of which class is its page, and where in the file is it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydump.engine.exclude import classified
from pydump.errors import PydumpError
from pydump.interfaces.image import KnowsPlaces, absent_in
from pydump.model.findings import AddressReport, AddressState

if TYPE_CHECKING:
    from pydump.interfaces.arch import Arch
    from pydump.interfaces.image import MemoryImage
    from pydump.model.guest import Guest
    from pydump.registry import Registry


def look_up(
    source: MemoryImage,
    guest: Guest,
    arch: type[Arch],
    paddr: int,
    registry: Registry,
    *,
    vaddr: int | None = None,
) -> AddressReport:
    """Find out about the page of an address.

    Args:
        source: The dump.
        guest: The facts, as far as they are known.
        arch: The guest's architecture, or None where no plugin knows it.
        paddr: The guest-physical address.
        registry: What is installed.
        vaddr: The virtual address that led to it, or None.
    """
    state = _state(source, guest, paddr)
    if state in ("not RAM", "beyond the end"):
        return AddressReport(paddr, vaddr, state)
    classes = _classes(source, guest, arch, paddr, registry)
    if state != "present":
        return AddressReport(paddr, vaddr, state, classes=classes)
    place = source.place(paddr) if isinstance(source, KnowsPlaces) else None
    if place is None:
        return AddressReport(paddr, vaddr, state, _is_zero(source, guest, paddr), classes)
    zero = _is_zero(source, guest, paddr)
    return AddressReport(paddr, vaddr, state, zero, classes, place.path, place.offset, place.size, place.compression)


def _state(source: MemoryImage, guest: Guest, paddr: int) -> AddressState:
    if paddr >= guest.memory.end:
        return "beyond the end"
    if guest.memory.find(paddr) is None:
        return "not RAM"
    excluded, lost = absent_in(source, paddr, paddr + 1)
    if excluded:
        return "excluded"
    return "unreadable" if lost else "present"


def _is_zero(source: MemoryImage, guest: Guest, paddr: int) -> bool:
    """Are all bytes of its page that are RAM zero?"""
    page = guest.page_size or 4096
    first = paddr - paddr % page
    for block in guest.memory.clip(first, page):
        buffer = bytearray(block.size)
        source.read_into(block.paddr, memoryview(buffer))
        if any(buffer):
            return False
    return True


def _classes(
    source: MemoryImage, guest: Guest, arch: type[Arch], paddr: int, registry: Registry
) -> tuple[str, ...] | None:
    found: list[str] = []
    known = False
    for cls in registry.filters():
        if guest.arch is None or not cls.knows(guest):
            continue
        try:
            parts = classified(source, guest, arch, frozenset(cls.classes), registry)
        except PydumpError:  # its tables are not in the dump
            continue
        known = True
        found += [name for part in parts for name, ranges in part.classes.items() if ranges.clip(paddr, paddr + 1)]
    return tuple(sorted(set(found))) if known else None
