"""libvirt's save images: a header, the domain's XML, then QEMU's stream, which may be compressed.

Source: src/qemu/qemu_saveimage.{h,c} of libvirt 9.0 and 11.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pydump.errors import FormatError
from pydump.layout.struct import U32, Bytes16, Layout
from pydump_qemu_stream.domain import Domain, read_domain

if TYPE_CHECKING:
    from pydump.interfaces.backing import Backing
    from pydump.model.guest import ByteOrder

MAGIC: Final = b"LibvirtQemudSave"
#: Of an image that was not finished.
PARTIAL: Final = b"LibvirtQemudPart"
VERSION: Final = 2
#: What the stream is compressed with, by the header's number. Source: enum virQEMUSaveFormat.
RAW, GZIP, BZIP2, XZ, LZOP, ZSTD, SPARSE = range(7)
#: Bytes behind the fields that are named here.
UNUSED: Final = 14 * 4
#: Bytes of the XML and what is kept free behind it.
MAX_XML: Final = 64 << 20


class SaveHeader(Layout):
    """struct _virQEMUSaveHeader, in the byte order of the host that wrote it."""

    magic: Bytes16 = MAGIC
    version: U32 = VERSION
    data_len: U32 = 0
    was_running: U32 = 0
    format: U32 = RAW
    cookie_offset: U32 = 0


@dataclass(frozen=True, slots=True)
class SaveImage:
    """A save image.

    Attributes:
        domain: The domain.
        format: What the stream is compressed with.
        stream: Where in the file it begins.
        finished: Has libvirt written all of it?
        warnings: What is odd, a line each.
    """

    domain: Domain
    format: int
    stream: int
    finished: bool
    warnings: tuple[str, ...]


def read_save_image(file: Backing) -> SaveImage:
    """Read what comes before the stream.

    Raises:
        FormatError: It is damaged.
    """
    head = file.read(0, min(file.size, SaveHeader.nbytes()))
    if len(head) < SaveHeader.nbytes():
        raise FormatError(file.path, "the file ends within libvirt's header")
    orders: tuple[ByteOrder, ...] = ("little", "big")
    header = next((h for order in orders if (h := SaveHeader.unpack(head, order)).version == VERSION), None)
    if header is None or header.format > SPARSE or header.data_len > MAX_XML:
        raise FormatError(file.path, "libvirt's header is of an unknown version or damaged")
    start = SaveHeader.nbytes() + UNUSED
    if start + header.data_len > file.size:
        raise FormatError(file.path, "the file ends within the domain's XML")
    text = file.read(start, header.data_len).partition(b"\0")[0]
    domain, fault = read_domain(text)
    warnings = [fault] if fault else []
    finished = header.magic == MAGIC
    if not finished:
        warnings.append("libvirt has not finished this save image: it may be cut off")
    return SaveImage(domain, header.format, start + header.data_len, finished, tuple(warnings))
