"""Keep a domain paused while another process reads its memory where it lies."""

from __future__ import annotations

import contextlib
import time
from typing import Final

from pydump_source_libvirt import mark
from pydump_source_libvirt.domain import RUNNING, CommandError, Domain
from pydump_source_libvirt.dump import head
from pydump_source_libvirt.events import RESUMED, Events
from pydump_source_libvirt.parent import Parent
from pydump_source_libvirt.undo import insist, let_run
from pydump_source_libvirt.where import FDNAME

#: Seconds between two looks.
STEP: Final = 1.0


def hold(domain: Domain, fifo: tuple[str, int], parent: Parent) -> tuple[float, str]:
    """Pause a domain, if it runs, until the parent has read its memory.

    Args:
        domain: A domain that is active.
        fifo: The name and the reading end of a pipe, for the head of a dump. The end is closed.
        parent: Keeps the head. It is told when the domain is held, and ends that by closing its socket.

    Returns:
        For how many seconds the guest was paused, and why memory may not be consistent, empty if it is.

    Raises:
        PydumpError: It failed. The domain is as it was, unless the error says otherwise.
    """
    mark.make(domain, parent.pid)
    events, ran = Events(domain), False
    begun = time.monotonic()
    try:
        parent.check()
        state = domain.state()
        if state == RUNNING:
            mark.note_pause(domain, parent.pid)
            ran, begun = True, time.monotonic()
            domain.suspend()
        before = len(events.heard)
        head(domain, *fifo, parent)
        parent.finish()
        parent.tell(held=True)
        while parent.waits:
            events.wait(STEP, parent.fileno())
        events.wait(0)
        doubt = "somebody let the domain run meanwhile" if RESUMED in events.heard[before:] else ""
        if not domain.alive:
            doubt = "libvirtd ended meanwhile: whether somebody let the domain run is not known"
    finally:
        if ran:
            let_run(domain)
        paused = time.monotonic() - begun if ran else 0.0
        insist(domain, lambda: _tidy(domain))
    domain.await_state(state)
    return paused, doubt


def _tidy(domain: Domain) -> None:
    with contextlib.suppress(CommandError):  # it is there only if the parent was killed
        domain.monitor("closefd", fdname=FDNAME)
    mark.remove(domain)
