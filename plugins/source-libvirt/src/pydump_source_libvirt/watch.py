"""Waits until a domain panics."""

from __future__ import annotations

from pydump.errors import PlanError, SourceError
from pydump.interfaces.watch import Watch
from pydump_qemu_stream.domain import read_domain
from pydump_source_libvirt.domain import CRASHED, Domain
from pydump_source_libvirt.events import CRASHES, Events
from pydump_source_libvirt.undo import insist


class LibvirtWatch(Watch):
    """Waits until a domain panics. A libvirtd that is started again meanwhile is connected to again.

    Args:
        domain: The domain, connected to with events; it is closed with this.
        known: Whether to leave out a panic that has happened already.

    Raises:
        PlanError: The domain is ended when it panics, or cannot say that it does.
        SourceError: It does not run.
    """

    def __init__(self, domain: Domain, *, known: bool) -> None:
        self._domain, self._known = domain, known
        domain.refuse_others()
        domain.refuse_shut_off()
        said, _ = read_domain(domain.xml())
        if said.on_crash != "preserve":
            raise PlanError(
                f"libvirt ends the domain {domain.name} when it panics: its on_crash is {said.on_crash or 'destroy'}",
                hint="virsh edit: <on_crash>preserve</on_crash>, and <panic/> in <devices>; then start it anew",
            )
        if not said.panics:
            raise PlanError(
                f"the domain {domain.name} has no panic device, and cannot say that it panics",
                hint="virsh edit: <panic model='isa'/> in <devices>; then start it anew",
            )
        self._listen()

    def _listen(self) -> None:
        self._events = Events(self._domain)

    def wait(self, seconds: float) -> bool:
        if not self._domain.alive:
            insist(self._domain, self._listen)
        self._events.wait(seconds)
        if CRASHES in self._events.heard:
            return True  # also where the domain has ended with it
        try:
            crashed = self._domain.state() == CRASHED
            if not crashed:
                self._domain.refuse_shut_off()
        except SourceError:
            if self._domain.alive:
                raise
            return False  # libvirtd has ended, and will be started again
        self._known &= crashed
        return crashed and not self._known

    def close(self) -> None:
        self._domain.close()
