"""Known defects of a vmcore's headers and notes, which break other readers and which a new dump corrects."""

from __future__ import annotations

from collections.abc import Iterator

from pydump.interfaces.image import MemoryImage
from pydump.model.guest import Guest


def defects(image: MemoryImage, complete: Guest) -> Iterator[str]:
    """One line for each defect.

    Args:
        image: The vmcore.
        complete: Its facts, complete and corrected.
    """
    yield from image.defects()
    stated = image.guest()
    if stated.byte_order not in (None, complete.byte_order):
        yield f"the file is {stated.byte_order}-endian, and the guest {complete.byte_order}-endian"
    if stated.page_size not in (None, complete.page_size):
        yield f"blocks of {stated.page_size} bytes, and the guest's pages have {complete.page_size}"
    if stated.phys_base not in (None, complete.phys_base):
        yield f"phys_base {stated.phys_base:#x}, which is {complete.phys_base:#x}"
    if len(stated.notes) == len(complete.notes):
        wrong = [old for old, new in zip(stated.notes, complete.notes, strict=True) if old != new]
        for name, type_ in sorted({(note.name, note.type) for note in wrong}):
            yield f"{name} notes of type {type_:#x} have fields that are wrong"
    if stated.vmcoreinfo is None and complete.vmcoreinfo is not None:
        yield "no VMCOREINFO note, and the guest's memory has the text"
