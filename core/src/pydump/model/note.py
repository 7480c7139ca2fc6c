"""An ELF note: who named it, its type, and its bytes."""

from __future__ import annotations

from dataclasses import dataclass

#: The name of the note that holds the guest kernel's VMCOREINFO text; its type is 0.
VMCOREINFO_NAME = "VMCOREINFO"

#: What makedumpfile erased from the dump, a line each. Source: makedumpfile's IMPLEMENTATION.
ERASEINFO_NAME = "ERASEINFO"


@dataclass(frozen=True, slots=True)
class Note:
    """One note.

    Attributes:
        name: The owner, without the NUL that ends it in a file.
        type: Its type, a number that means something only together with the name.
        desc: Its content, in the byte order of the file it belongs to.
    """

    name: str
    type: int
    desc: bytes

    @property
    def is_vmcoreinfo(self) -> bool:
        """Is this the guest kernel's VMCOREINFO?"""
        return self.name == VMCOREINFO_NAME and self.type == 0
