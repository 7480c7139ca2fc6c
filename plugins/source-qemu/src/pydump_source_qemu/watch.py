"""Waits until something happens to a guest of QEMU."""

from __future__ import annotations

import select

from pydump.errors import SourceError
from pydump.interfaces.watch import Watch
from pydump_source_qemu.events import Event
from pydump_source_qemu.monitor import Monitor


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
