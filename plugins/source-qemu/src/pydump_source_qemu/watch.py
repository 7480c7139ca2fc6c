"""Waits until something happens to a guest of QEMU."""

from __future__ import annotations

import select
from typing import Final

from pydump.errors import SourceError
from pydump.interfaces.watch import Watch
from pydump_source_qemu.events import Event
from pydump_source_qemu.monitor import CommandError, Monitor

#: Devices through which a guest says that it panics. Source: hw/misc/pvpanic*.c, TYPE_PVPANIC_*_DEVICE.
PANIC_DEVICES: Final = frozenset({"pvpanic", "pvpanic-pci", "pvpanic-mmio"})
#: Where QEMU has the devices of a machine. Source: hw/core/qdev.c, qdev_set_id; softmmu/qdev-monitor.c.
DEVICES: Final = ("/machine/peripheral", "/machine/peripheral-anon", "/machine/unattached")
#: Targets whose kernel says so without a device.
#: Source: hw/ppc/spapr_rtas.c, rtas_ibm_os_term; target/s390x/helper.c, s390_handle_wait.
NEED_NO_DEVICE: Final = frozenset({"ppc64", "s390x"})


NO_DEVICE: Final = (
    "the guest has no pvpanic device, through which it says that it panics; start QEMU with -device pvpanic on a PC, "
    "else with -device pvpanic-pci"
)


def _hears_of_panics(monitor: Monitor) -> bool:
    """Whether QEMU hears of a panic of its guest; True where it does not say."""
    try:
        if monitor.field("query-target", "arch", str) in NEED_NO_DEVICE:
            return True
        rows = [row for path in DEVICES for row in monitor.rows("qom-list", {"path": path}, name=str, type=str)]
    except CommandError:
        return True
    return any(row["type"].removeprefix("child<").removesuffix(">") in PANIC_DEVICES for row in rows)


class QemuWatch(Watch):
    """Waits for one event of a guest.

    Args:
        monitor: The connection; it is closed with this.
        event: What to wait for.
        known: Whether to leave out the state that the guest is in now.
    """

    def __init__(self, monitor: Monitor, event: Event, *, known: bool) -> None:
        self._monitor = monitor
        self._event = event
        self._known = known
        self.warnings = () if event.name != "GUEST_PANICKED" or _hears_of_panics(monitor) else (NO_DEVICE,)

    def wait(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._monitor.socket, select.POLLIN)
        poll.poll(seconds * 1000)
        try:
            state = self._monitor.field("query-status", "status", str)
        except SourceError:
            if self._monitor.heard(self._event):
                return True  # QEMU has ended with it
            raise
        self._known &= state == self._event.state
        return self._monitor.heard(self._event) or (state == self._event.state and not self._known)

    def close(self) -> None:
        self._monitor.close()
