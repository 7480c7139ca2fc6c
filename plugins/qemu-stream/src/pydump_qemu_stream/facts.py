"""The facts of a guest, of what the devices of its stream say."""

from __future__ import annotations

from collections.abc import Callable

from pydump.layout.notes import read_notes, split_vmcoreinfo
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap
from pydump.model.vmcoreinfo import MAX_TEXT, Vmcoreinfo
from pydump_qemu_stream.registers import MACHINES, Processors
from pydump_qemu_stream.state import Devices


def guest_of(memory: MemoryMap, cpus: Processors | None, vmcoreinfo: Vmcoreinfo | None) -> Guest:
    """The facts.

    Args:
        memory: Where RAM lies.
        cpus: The CPUs; None where nothing is known of them.
        vmcoreinfo: The guest kernel's.
    """
    if cpus is None:
        return Guest(memory)
    machine, elf_class = MACHINES[cpus.arch]
    if memory.end > 0xFFFFFFFF:  # QEMU's dump is of 64 bits even if memory ends at 4 GiB
        elf_class = 64
    return Guest(
        memory,
        machine=machine,
        byte_order=cpus.byte_order,
        elf_class=elf_class,
        cpus=cpus.cpus,
        vmcoreinfo=vmcoreinfo,
    )


def read_vmcoreinfo(
    devices: Devices, memory: MemoryMap, read_into: Callable[[int, memoryview], None]
) -> Vmcoreinfo | None:
    """The note at the address that the guest has handed to QEMU, if there is one.

    Args:
        devices: What the stream's devices say.
        memory: Where RAM lies.
        read_into: Fills a buffer from a paddr on.
    """
    if devices.vmcoreinfo is None:
        return None
    paddr, size = devices.vmcoreinfo
    block = memory.find(paddr)
    if block is None or not 0 < size <= MAX_TEXT + 64 or paddr + size > block.end:
        return None
    buffer = bytearray(size)
    read_into(paddr, memoryview(buffer))
    notes, _ = read_notes(bytes(buffer), devices.cpus.byte_order if devices.cpus else "little", 4)
    return split_vmcoreinfo(notes)[1]
