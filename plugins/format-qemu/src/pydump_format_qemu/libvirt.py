"""libvirt's save images: a header, the domain's XML, then QEMU's stream, which may be compressed.

Source: src/qemu/qemu_saveimage.{h,c} of libvirt 9.0 and 11.3.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree

from pydump.errors import FormatError
from pydump.layout.struct import U32, Bytes16, Layout

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
class Domain:
    """What a domain's XML says of its machine.

    Attributes:
        arch: The architecture's name, or empty.
        machine: The machine's type, or empty.
        dimms: The guest-physical address of each RAM block that is a memory device.
    """

    arch: str = ""
    machine: str = ""
    dimms: dict[str, int] = field(default_factory=dict)


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


def read_domain(text: bytes) -> tuple[Domain, str]:
    """What a domain's XML says, and what is wrong with it. A domain of which nothing is known if it cannot be read."""
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        return Domain(), "the domain's XML is not libvirt's: it is not read"
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        return Domain(), f"the domain's XML cannot be read: {error}"
    kind = root.find("os/type")
    dimms: dict[str, int] = {}
    for device in root.iterfind("devices/memory"):
        alias, address = device.find("alias"), device.find("address[@type='dimm']")
        if address is None:
            continue
        # A saved domain has no aliases. The memory backend of the device dimm0, in slot 0, is called memdimm0.
        # Source: qemuAssignDeviceMemoryAlias in src/qemu/qemu_alias.c.
        name = alias.get("name") if alias is not None else f"{device.get('model')}{address.get('slot')}"
        try:
            dimms[f"mem{name}"] = int(address.get("base", ""), 0)
        except ValueError:
            continue
    if kind is None:
        return Domain(dimms=dimms), ""
    return Domain(kind.get("arch", ""), kind.get("machine", ""), dimms), ""
