"""What QEMU says of a guest without a dump, which pauses nobody."""

from __future__ import annotations

from typing import Any, Final

from pydump.errors import SourceError
from pydump.model.guest import Guest
from pydump.model.memory import Ranges
from pydump_qemu_stream.elf_head import MAX_RAM
from pydump_qemu_stream.flat_view import Place, memory_of, seen
from pydump_qemu_stream.mark import CAPABILITY
from pydump_qemu_stream.registers import MACHINES
from pydump_source_qemu.monitor import CommandError, Monitor

#: Memory of which the guest may have but a part: QEMU sends no page of the rest. Source: qapi/machine.json.
PARTLY_PLUGGED: Final = "virtio-mem"


def streams_registers(monitor: Monitor) -> bool:
    """Whether this QEMU describes the devices of a stream, and we know the registers of such a CPU.

    Raises:
        SourceError: QEMU is gone.
    """
    try:
        arch = monitor.field("query-target", "arch", str)
        # Set by machine types up to 2.2. Source: should_send_vmdesc in migration/savevm.c.
        suppressed = monitor.flag("qom-get", path="/machine", property="suppress-vmdesc")
    except CommandError:
        return False
    return arch in MACHINES and not suppressed


def snapshots(state: bool) -> dict[str, Any]:
    """The argument of migrate-set-capabilities that has the next migration be a snapshot, or not."""
    return {"capabilities": [{"capability": CAPABILITY, "state": state}]}


def can_snapshot(monitor: Monitor) -> bool:
    """Whether QEMU can take a snapshot of this guest.

    Raises:
        SourceError: QEMU is gone.
    """
    if not monitor.local:
        return False
    try:
        monitor.command("migrate-set-capabilities", **snapshots(True))
        monitor.command("migrate-set-capabilities", **snapshots(False))
    except CommandError:
        return False
    return True


def read_places(monitor: Monitor) -> dict[str, list[Place]]:
    """The parts of QEMU's RAM that the guest sees now, as :func:`pydump_qemu_stream.flat_view.seen` gives them.

    Raises:
        SourceError: QEMU does not say.
    """
    found = seen(monitor.human("info mtree -f"), MAX_RAM)
    if not found:
        raise SourceError("QEMU lists no RAM of this guest", hint="take --pause copy")
    return found


def partly_plugged(monitor: Monitor) -> Ranges:
    """Where memory is of which the guest may have but a part, in paddr.

    Raises:
        SourceError: QEMU is gone.
    """
    try:
        devices = monitor.rows("query-memory-devices", type=str, data=dict)
    except CommandError:  # of a machine without memory that can be plugged in
        return Ranges.empty()
    found = []
    for device in devices:
        paddr, size = device["data"].get("memaddr"), device["data"].get("max-size")
        if device["type"] == PARTLY_PLUGGED:
            if type(paddr) is not int or type(size) is not int or not 0 <= paddr < paddr + size < 1 << 63:
                raise monitor.foreign("query-memory-devices")
            found.append((paddr, paddr + size))
    return Ranges.of(found)


def read_stated(monitor: Monitor) -> Guest:
    """The guest's facts as far as they can be had without a dump: no registers.

    Raises:
        SourceError: QEMU does not give them.
    """
    memory = memory_of(read_places(monitor))
    arch = monitor.field("query-target", "arch", str)
    if arch not in MACHINES:
        return Guest(memory)
    machine, elf_class = MACHINES[arch]
    # Of those that can be both, Linux is little-endian almost everywhere.
    return Guest(memory, machine=machine, byte_order="big" if arch == "s390x" else "little", elf_class=elf_class)
