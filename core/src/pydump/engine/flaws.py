"""What a vmcore says wrongly or not at all, so that readers stumble over it, and a dump of it says right."""

from __future__ import annotations

from collections.abc import Iterator

from pydump.interfaces.source import Source
from pydump.model.guest import Guest


def flaws(source: Source, settled: Guest) -> Iterator[str]:
    """One line for each flaw.

    Args:
        source: The vmcore.
        settled: Its facts, as they are put right.
    """
    yield from source.flaws()
    stated = source.guest()
    if stated.byte_order not in (None, settled.byte_order):
        yield f"the file is {stated.byte_order}-endian, and the guest {settled.byte_order}-endian"
    if stated.page_size not in (None, settled.page_size):
        yield f"blocks of {stated.page_size} bytes, and the guest's pages have {settled.page_size}"
    if stated.phys_base not in (None, settled.phys_base):
        yield f"phys_base {stated.phys_base:#x}, which is {settled.phys_base:#x}"
    if len(stated.notes) == len(settled.notes):
        wrong = [old for old, new in zip(stated.notes, settled.notes, strict=True) if old != new]
        for name, type_ in sorted({(note.name, note.type) for note in wrong}):
            yield f"{name} notes of type {type_:#x} have fields that are wrong"
    if stated.vmcoreinfo is None and settled.vmcoreinfo is not None:
        yield "no VMCOREINFO note, and the guest's memory has the text"
