"""Guests that QEMU or libvirt saved: the format's name, and how to tell a file of it.

The reader is loaded when one is wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from pydump.hookspecs import hookimpl
from pydump.interfaces.format import Format
from pydump.options import option

if TYPE_CHECKING:
    from pydump.interfaces.format import Opened
    from pydump.interfaces.image import MemoryImage

#: QEMU_VM_FILE_MAGIC; libvirt's QEMU_SAVE_MAGIC and QEMU_SAVE_PARTIAL; QCOW_MAGIC.
MAGICS: Final = (b"QEVM", b"LibvirtQemudSave", b"LibvirtQemudPart", b"QFI\xfb")


@dataclass(frozen=True, slots=True)
class QemuReaderOptions:
    """How a saved guest is read."""

    place: str = option(
        "", help="the addresses of RAM blocks that the file does not place", metavar="BLOCK=ADDR[,OFFSET,SIZE][+…]"
    )
    backing: str = option(
        "", help="the file beside it that holds a RAM block missing in the stream", metavar="BLOCK=FILE[+…]"
    )
    snapshot: str = option("", help="the name or number of a snapshot in a qcow2 file", metavar="NAME")


class QemuFormat(Format):
    """A migration stream of QEMU's, bare or in a container."""

    name: ClassVar[str] = "qemu"
    ReaderOptions: ClassVar[type] = QemuReaderOptions

    @classmethod
    def detect(cls, head: bytes) -> bool:
        return head.startswith(MAGICS)

    @classmethod
    def open(cls, opened: Opened) -> MemoryImage:
        from pydump_format_qemu.reader import open_image

        return open_image(opened)


@hookimpl
def pydump_register_formats() -> Sequence[type[Format]]:
    """``pydump info FILE.save``."""
    return [QemuFormat]
