"""What the sub header points at: notes, VMCOREINFO, and what was erased."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pydump.errors import FormatError
from pydump.layout.notes import MAX_NOTES_SIZE, read_notes, split_vmcoreinfo
from pydump.layout.windows import windows_of
from pydump.model.note import ERASEINFO_NAME, Note
from pydump.model.vmcoreinfo import Vmcoreinfo
from pydump_format_kdump.parts import Part


class Texts(NamedTuple):
    """What a dump says beside its memory.

    Attributes:
        notes: All notes but VMCOREINFO, with ERASEINFO as one of them.
        vmcoreinfo: Of the guest kernel, or None.
        warnings: What of them is missing or damaged, a line each.
    """

    notes: tuple[Note, ...]
    vmcoreinfo: Vmcoreinfo | None
    warnings: tuple[str, ...]


def read_texts(part: Part, parts: Sequence[Part]) -> Texts:
    """Read the notes of one part, and what was erased of all parts.

    Raises:
        FormatError: There are more of them than can be.
    """
    sub = part.headers.sub
    warnings: list[str] = []
    data = _blob(part, sub.offset_note, sub.size_note, "notes", warnings)
    found, faults = read_notes(data, part.headers.byte_order)
    notes, vmcoreinfo, empty = split_vmcoreinfo(found)
    if len(data) == sub.size_note:  # what a cut file lacks has been said
        warnings += [f"notes at {sub.offset_note:#x}: {fault}" for fault in faults]
    warnings += empty
    # QEMU has the sub header point at that of a Windows guest, which is not a text.
    if vmcoreinfo is None and windows_of(notes) is None:
        text = Vmcoreinfo(_blob(part, sub.offset_vmcoreinfo, sub.size_vmcoreinfo, "VMCOREINFO", warnings))
        vmcoreinfo = text if text.keys() else None
    others = list(notes)
    erased: list[bytes] = []
    for one in parts:  # makedumpfile gives each the lines of what it erased in there
        lines = _blob(one, one.headers.sub.offset_eraseinfo, one.headers.sub.size_eraseinfo, "ERASEINFO", warnings)
        if lines and lines not in erased:
            erased.append(lines)
    if erased and not any(note.name == ERASEINFO_NAME for note in others):
        others.append(Note(ERASEINFO_NAME, 0, b"".join(erased)))
    return Texts(tuple(others), vmcoreinfo, tuple(warnings))


def _blob(part: Part, offset: int, size: int, name: str, warnings: list[str]) -> bytes:
    """What the sub header points at, as far as the file holds it."""
    backing = part.backing
    if not offset or not size:
        return b""
    if size > MAX_NOTES_SIZE:
        raise FormatError(backing.path, f"{size:#x} bytes of {name}", offset=part.headers.block_size)
    end = min([offset + size, *(start for start, _ in backing.missing(offset, size))])
    if end < offset + size and not part.cut:
        warnings.append(f"{backing.path}: the {name} should end at {offset + size:#x}, and the file does not hold them")
    return backing.read(offset, max(0, end - offset)) if end > offset else b""
