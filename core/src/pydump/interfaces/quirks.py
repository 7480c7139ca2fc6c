"""How QEMU's dumps of a machine differ from what the guest is."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pydump.model.guest import ByteOrder, Guest, Utsname
from pydump.model.note import Note


@dataclass(frozen=True)
class Quirks:
    """What QEMU states of every guest of an architecture, and the mistakes in it.

    An architecture whose notes or numbers QEMU gets wrong overrides the methods.

    Attributes:
        notes_by_kind: Whether QEMU writes all CPUs' notes of a kind before those of the next kind. Else it writes
            CPU after CPU.
        page_size: The block size of QEMU's kdump files, in bytes.
        machine: utsname.machine in QEMU's kdump files.
    """

    notes_by_kind: bool = False
    page_size: int = 4096
    machine: str = "Unknown"

    def phys_base(self, guest: Guest) -> int:
        """The phys_base in QEMU's kdump header, signed."""
        return 0

    def corrected(self, notes: tuple[Note, ...], byte_order: ByteOrder) -> tuple[Note, ...]:
        """The notes with QEMU's mistakes corrected. Notes without them are returned as they are."""
        return notes

    def mistaken(self, notes: tuple[Note, ...], byte_order: ByteOrder) -> tuple[Note, ...]:
        """Right notes with QEMU's mistakes, as made on a little-endian host."""
        return notes

    def stated(self, guest: Guest) -> Guest:
        """The facts as QEMU's dump states them, mistakes included.

        Args:
            guest: The complete facts.
        """
        return replace(
            guest,
            page_size=self.page_size,
            phys_base=self.phys_base(guest),
            utsname=Utsname(machine=self.machine),
            notes=self.mistaken(guest.notes, guest.byte_order or "little"),
            # QEMU cannot read the guest's note when its byte order is not the host's, and leaves it out.
            vmcoreinfo=None if guest.byte_order == "big" else guest.vmcoreinfo,
        )
