"""ELF notes to bytes and back.

Source: System V ABI, chapter 5, "Note Section", with the 4-byte alignment that Linux, QEMU and every reader use. Notes
that are padded to 8 bytes, as the ABI asks for in 64-bit files, are read and never written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from pydump.layout.elf import Nhdr
from pydump.layout.windows import windows_facts
from pydump.model.note import Note
from pydump.model.vmcoreinfo import MAX_TEXT, Vmcoreinfo

if TYPE_CHECKING:
    from pydump.model.guest import ByteOrder

#: More notes than this are not believed: a CPU has a dozen at most, and the largest machines 8192 CPUs.
MAX_NOTES: Final = 1 << 18
#: Nor more bytes of them: a CPU with wide vectors has some 8 KiB.
MAX_NOTES_SIZE: Final = 1 << 26
_NOT_ZERO: Final = re.compile(rb"[^\0]")


def pack_notes(notes: Iterable[Note], byte_order: ByteOrder) -> bytes:
    """The notes one after the other, each padded to 4 bytes."""
    return b"".join(pack_note(note, byte_order) for note in notes)


def pack_note(note: Note, byte_order: ByteOrder) -> bytes:
    """One note; the name's NUL is counted in n_namesz."""
    name = note.name.encode("latin-1") + b"\0"
    return Nhdr(len(name), len(note.desc), note.type).pack(byte_order) + _padded(name) + _padded(note.desc)


def desc_offset(note: Note) -> int:
    """Where the content of a packed note begins, from the note's first byte."""
    return Nhdr.nbytes() + _align(len(note.name.encode("latin-1")) + 1)


def unpack_notes(data: bytes | memoryview, byte_order: ByteOrder) -> tuple[Note, ...]:
    """The notes in ``data``, which holds nothing else but zeros behind the last one.

    Raises:
        ValueError: Something else is there, or a note reaches past the end; the message says at which offset.
    """
    notes, faults = read_notes(data, byte_order)
    if faults:
        raise ValueError(faults[0])
    return notes


def read_notes(
    data: bytes | memoryview, byte_order: ByteOrder, alignment: int = 4
) -> tuple[tuple[Note, ...], tuple[str, ...]]:
    """The notes in ``data`` that are whole, whatever else is there.

    Zeros between notes are passed over: the buffer of a CPU that saved no registers. What follows a note that cannot
    be one is left out. Many writers say p_align 8 and pad to 4 bytes: where padding to 8 bytes makes no sense, 4 is
    tried.

    Args:
        data: What a PT_NOTE holds.
        byte_order: Its byte order.
        alignment: Its p_align: 8 where names and contents are padded to 8 bytes; anything else means 4.

    Returns:
        The notes, and a line for each fault.
    """
    found = _walk(data, byte_order, 8 if alignment == 8 else 4)
    if alignment != 8 or not found[1]:
        return found
    return min(found, _walk(data, byte_order, 4), key=lambda one: (len(one[1]), -len(one[0])))


def _walk(data: bytes | memoryview, byte_order: ByteOrder, alignment: int) -> tuple[tuple[Note, ...], tuple[str, ...]]:
    notes: list[Note] = []
    faults: list[str] = []
    at = gap = 0
    head_size = Nhdr.nbytes()
    while match := _NOT_ZERO.search(data, at):
        start = match.start() // alignment * alignment
        gap, at = gap or start - at, start
        left = len(data) - at
        if left < head_size:
            faults.append(f"{left} bytes at offset {at:#x} are not a note")
            break
        header = Nhdr.unpack(data, byte_order, at)
        namesz, descsz, type_ = header
        name_at = at + head_size
        desc_at = at + _align(head_size + namesz, alignment)
        if desc_at + descsz > len(data):
            faults.append(
                f"the note at offset {at:#x} claims {namesz} + {descsz} bytes, "
                f"{len(data) - name_at} are left: what follows is not read"
            )
            break
        if len(notes) == MAX_NOTES:
            faults.append(f"there are more than {MAX_NOTES} notes: what follows is not read")
            break
        if gap > 0:
            faults.append(f"{gap} bytes of zeros stand before the note at offset {at:#x}")
            gap = -1  # one line for all of them
        name = bytes(data[name_at : name_at + namesz]).rstrip(b"\0").decode("latin-1")
        notes.append(Note(name, type_, bytes(data[desc_at : desc_at + descsz])))
        at = desc_at + _align(descsz, alignment)
    return tuple(notes), tuple(faults)


def split_vmcoreinfo(notes: Iterable[Note]) -> tuple[tuple[Note, ...], Vmcoreinfo | None, tuple[str, ...]]:
    """Take VMCOREINFO from among the notes of a file.

    A VMCOREINFO note that holds the header of a Windows crash dump stays among the other notes.

    Returns:
        The other notes; the first VMCOREINFO that has entries and is no longer than one can be, or None; and a line
        for each fault.
    """
    others, texts = [], []
    for note in notes:
        if note.is_vmcoreinfo and windows_facts(note.desc) is None:
            texts.append(Vmcoreinfo(note.desc))
        else:
            others.append(note)
    sound = [text for text in texts if text.keys() and len(text.text) <= MAX_TEXT]
    empty = len(texts) - len(sound)
    faults = (f"{empty} VMCOREINFO note{'s have' if empty > 1 else ' has'} no entries, or too many",) if empty else ()
    return tuple(others), next(iter(sound), None), faults


def _align(size: int, alignment: int = 4) -> int:
    return -(-size // alignment) * alignment


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
