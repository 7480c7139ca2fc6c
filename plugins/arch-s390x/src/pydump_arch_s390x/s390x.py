"""The s390x architecture."""

from __future__ import annotations

from typing import ClassVar, Final

from pydump.interfaces.arch import Arch
from pydump.layout.registers import NoteKind, splice
from pydump.model.guest import ByteOrder
from pydump.model.note import Note
from pydump_arch_s390x.notes import NOTES, PR_PID_OFFSET

#: Linux's PID_MAX_LIMIT on 64-bit machines: no pr_pid is larger, and 1 in the wrong byte order is.
PID_MAX_LIMIT: Final = 1 << 22


class S390xArch(Arch):
    """64-bit IBM Z."""

    name: ClassVar[str] = "s390x"
    machine: ClassVar[int] = 22
    byte_order: ClassVar[ByteOrder] = "big"
    elf_class: ClassVar[int] = 64
    page_sizes: ClassVar[tuple[int, ...]] = (4096,)
    note_kinds: ClassVar[tuple[NoteKind, ...]] = NOTES
    qemu_machine: ClassVar[str] = "S390X"

    @classmethod
    def corrected_notes(cls, notes: tuple[Note, ...], byte_order: ByteOrder) -> tuple[Note, ...]:
        """pr_pid in the guest's byte order; QEMU writes it in the host's."""
        pids = [note.desc[PR_PID_OFFSET : PR_PID_OFFSET + 4] for note in notes if NOTES[0].matches(note)]
        swapped = any(int.from_bytes(pid, byte_order) > PID_MAX_LIMIT for pid in pids)
        return _with_swapped_pids(notes) if swapped else notes

    @classmethod
    def mistaken_notes(cls, notes: tuple[Note, ...], byte_order: ByteOrder) -> tuple[Note, ...]:
        """pr_pid in a little-endian host's byte order."""
        return _with_swapped_pids(notes)


def _with_swapped_pids(notes: tuple[Note, ...]) -> tuple[Note, ...]:
    return tuple(
        splice(note, PR_PID_OFFSET, note.desc[PR_PID_OFFSET : PR_PID_OFFSET + 4][::-1])
        if NOTES[0].matches(note)
        else note
        for note in notes
    )
