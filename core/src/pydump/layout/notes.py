"""ELF notes to bytes and back.

Source: System V ABI, chapter 5, "Note Section", with the 4-byte alignment that Linux, QEMU and every reader use.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from pydump.layout.elf import Nhdr
from pydump.model.note import Note

if TYPE_CHECKING:
    from pydump.model.guest import ByteOrder

#: More notes than this are not believed: a CPU has a dozen at most, and the largest machines 8192 CPUs.
MAX_NOTES: Final = 1 << 18
#: Nor more bytes of them: a CPU with wide vectors has some 8 KiB.
MAX_NOTES_SIZE: Final = 1 << 26


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
    """The notes in ``data``; bytes that follow the last whole note are ignored when they are all zero.

    Raises:
        ValueError: A note reaches past the end, and the message says at which offset; or they are too many.
    """
    notes: list[Note] = []
    at = 0
    while len(data) - at >= Nhdr.nbytes():
        header = Nhdr.unpack(data, byte_order, at)
        if header == Nhdr():
            break
        if len(notes) == MAX_NOTES:
            raise ValueError(f"there are more than {MAX_NOTES} of them")
        name_at = at + Nhdr.nbytes()
        desc_at = name_at + _align(header.n_namesz)
        if desc_at + header.n_descsz > len(data):
            raise ValueError(
                f"the note at offset {at:#x} claims {header.n_namesz} + {header.n_descsz} bytes, "
                f"{len(data) - name_at} are left"
            )
        name = bytes(data[name_at : name_at + header.n_namesz]).rstrip(b"\0").decode("latin-1")
        notes.append(Note(name, header.n_type, bytes(data[desc_at : desc_at + header.n_descsz])))
        at = desc_at + _align(header.n_descsz)
    if bytes(data[at:]).strip(b"\0"):
        raise ValueError(f"{len(data) - at} bytes at offset {at:#x} are no note")
    return tuple(notes)


def _align(size: int) -> int:
    return size + 3 & ~3


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
