"""VMware's states of suspended guests and snapshots: the format's name, and how to tell a file of it.

The reader is loaded when one is wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Final

from pydump.hookspecs import hookimpl
from pydump.interfaces.format import Format

if TYPE_CHECKING:
    from pydump.interfaces.format import Opened
    from pydump.interfaces.image import MemoryImage

#: What a checkpoint file begins with: whole, partial, restored, and not to be restored. Source: crash, vmware_vmss.h.
MAGICS: Final = (0xBED2BED2, 0xBED3BED3, 0xBAD1BAD1, 0xBAD2BAD2)
_HEADS: Final = tuple(magic.to_bytes(4, "little") for magic in MAGICS)


class VmwareFormat(Format):
    """A ``.vmss`` or ``.vmsn`` file, with guest memory in it or in the ``.vmem`` file beside it."""

    name: ClassVar[str] = "vmware"
    carries: ClassVar[frozenset[str]] = frozenset({"registers"})

    @classmethod
    def detect(cls, head: bytes) -> bool:
        return head.startswith(_HEADS)

    @classmethod
    def open(cls, opened: Opened) -> MemoryImage:
        from pydump_format_vmware.reader import open_image

        return open_image(opened.files[0], opened.sibling)


@hookimpl
def pydump_register_formats() -> Sequence[type[Format]]:
    """Read only."""
    return [VmwareFormat]
