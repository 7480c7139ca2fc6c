"""What libvirt says of a machine: the XML of its domain."""

from __future__ import annotations

from dataclasses import dataclass, field
from xml.etree import ElementTree


@dataclass(frozen=True, slots=True)
class Domain:
    """What a domain's XML says of its machine.

    Attributes:
        arch: The architecture's name, or empty.
        machine: The machine's type, or empty.
        dimms: The guest-physical address of each RAM block that is a memory device.
        owner: The user and group that libvirt has QEMU run as, as "+UID:+GID", or empty.
        on_crash: What libvirt does when it panics, or empty.
        panics: Whether it has a device that says so.
    """

    arch: str = ""
    machine: str = ""
    dimms: dict[str, int] = field(default_factory=dict)
    owner: str = ""
    on_crash: str = ""
    panics: bool = False


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
    found = Domain(
        kind.get("arch", ""),
        kind.get("machine", ""),
        dimms,
        owner=root.findtext("seclabel[@model='dac']/label", "").strip(),
        on_crash=root.findtext("on_crash", "").strip(),
        panics=root.find("devices/panic") is not None,
    )
    return found, ""
