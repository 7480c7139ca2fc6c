"""What the devices of a stream say of the guest: CPUs, ROM or RAM below 1 MiB, virtio-mem, VMCOREINFO."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from pydump.errors import PydumpError
from pydump.model.memory import Ranges
from pydump_qemu_stream.place import PAM, Hotplugged
from pydump_qemu_stream.reader import damaged
from pydump_qemu_stream.registers import Processors, processors
from pydump_qemu_stream.vmdesc import State, decode, read_description

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from pydump_qemu_stream.ram import Block
    from pydump_qemu_stream.stream import Device, Stream

#: Bytes of the state of a device that is looked at. That of a CPU with all vectors has some 20 KiB.
MAX_STATE: Final = 1 << 22
VIRTIO_MEM: Final = "/virtio-mem-device-early"
#: Bytes of its address, its region's size, its blocks' size and its node.
VIRTIO_MEM_CHECKS: Final = 28


@dataclass(slots=True)
class Devices:
    """What devices say.

    Attributes:
        cpus: The CPUs; None where nothing is known of them.
        shadow: Of a PC: what below 1 MiB is ROM, as in :class:`pydump_qemu_stream.place.Machine`.
        hotplugged: The memory of virtio-mem devices, by block.
        vmcoreinfo: ``(paddr, size)`` of the note that the guest has handed to QEMU.
        warnings: What is missing, a line each.
    """

    cpus: Processors | None = None
    shadow: bytes = b""
    hotplugged: dict[str, Hotplugged] = field(default_factory=dict)
    vmcoreinfo: tuple[int, int] | None = None
    warnings: list[str] = field(default_factory=list)


def read_devices(read: Callable[[Device], bytes], stream: Stream, blocks: list[Block]) -> Devices:
    """Look at the devices of a stream that has been walked.

    Args:
        read: Gives a device's state.
        stream: The stream.
        blocks: Its blocks of RAM.
    """
    found = Devices()
    described: dict[tuple[str, int], dict[str, Any]] = {}
    if not stream.description:
        found.warnings.append("the stream does not describe its devices: no registers are known")
    else:
        try:
            described = read_description(stream.description)
        except PydumpError as error:
            found.warnings.append(f"no registers are known: {error.message}")
    cpus: list[State] = []
    for device in stream.devices:
        try:
            _look(read, device, described, blocks, found, cpus)
        except PydumpError as error:
            found.warnings.append(f"the state of {device.name} {device.instance} is not known: {error.message}")
    found.cpus = processors(cpus)
    n_cpus = sum(device.name == "cpu" for device in stream.devices)
    if len(cpus) < n_cpus and found.cpus is not None:  # registers of some CPUs would be taken for those of others
        found.cpus = Processors(found.cpus.arch, found.cpus.byte_order, ())
    return found


def _look(
    read: Callable[[Device], bytes],
    device: Device,
    described: dict[tuple[str, int], dict[str, Any]],
    blocks: list[Block],
    found: Devices,
    cpus: list[State],
) -> None:
    name = device.name.rpartition("/")[2]
    if device.name.endswith(VIRTIO_MEM):
        body = _body(read, device)
        path = device.name.removesuffix(VIRTIO_MEM)
        block = next((b for b in blocks if b.name.startswith(f"{path}/")), None)
        if block is not None:
            found.hotplugged[block.name] = _virtio_mem(body)
        return
    if name not in ("cpu", "vmcoreinfo", *PAM) or (device.name, device.instance) not in described:
        return
    state = decode(described[device.name, device.instance], _body(read, device))
    if device.name == "cpu":
        cpus.append(state)
    elif name in PAM:
        config = next((part.fields.get("config[0]") for part in state.structs("parent_obj")), None)
        if config and isinstance(config[0], bytes):
            found.shadow = config[0][PAM[name] : PAM[name] + 7]
    elif state.number("has_vmcoreinfo") and state.number("vmcoreinfo.guest_format") == 1:
        found.vmcoreinfo = state.number("vmcoreinfo.paddr"), state.number("vmcoreinfo.size")


def _body(read: Callable[[Device], bytes], device: Device) -> bytes:
    if device.end - device.start > MAX_STATE:
        raise damaged(f"it has {device.end - device.start:#x} bytes")
    return read(device)


def _virtio_mem(body: bytes) -> Hotplugged:
    """Where the memory of a virtio-mem device is, and what of it is plugged in.

    Source: vmstate_virtio_mem_device_early in hw/virtio/virtio-mem.c.
    """
    import numpy as np

    if len(body) < VIRTIO_MEM_CHECKS + 8 or (len(body) - VIRTIO_MEM_CHECKS) % 8:
        raise damaged("it is too short")
    paddr, size, block_size = (int.from_bytes(body[at : at + 8], "big") for at in (0, 8, 16))
    bits = np.unpackbits(_words(body[VIRTIO_MEM_CHECKS + 8 :]), bitorder="little")
    if not block_size or block_size & block_size - 1 or -(-size // block_size) > len(bits):
        raise damaged(f"blocks of {block_size:#x} bytes")
    edges = np.flatnonzero(np.diff(bits[: -(-size // block_size)].astype(np.int8), prepend=0, append=0))
    if int(bits.sum()) and int(edges[-1]) * block_size > 1 << 62:
        raise damaged("it is too large")
    return Hotplugged(paddr, Ranges.of_array(edges.reshape(-1, 2) * block_size))


def _words(data: bytes) -> NDArray[np.uint8]:
    """A bitmap of big-endian words as bytes, the first bit the lowest one of the first byte."""
    import numpy as np

    return np.frombuffer(data, ">u8").astype("<u8").view(np.uint8)
