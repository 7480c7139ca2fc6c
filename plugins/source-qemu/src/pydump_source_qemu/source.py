"""Opens the guest behind a QMP monitor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydump.errors import PlanError
from pydump.interfaces.source import Source
from pydump_source_qemu.events import EVENTS
from pydump_source_qemu.options import QemuOptions

if TYPE_CHECKING:
    from pydump.interfaces.watch import Watch
    from pydump_source_qemu.live import QemuGuest


class QemuSource(Source):
    """``qmp:SOCKET`` or ``qmp:HOST:PORT``: the guest behind a QMP monitor."""

    name: ClassVar[str] = "qmp"
    Options: ClassVar[type] = QemuOptions
    events: ClassVar[tuple[str, ...]] = tuple(EVENTS)

    @classmethod
    def open(cls, argument: str, options: Any = None) -> QemuGuest:
        from pydump_source_qemu.choose import refuse_pairs
        from pydump_source_qemu.live import QemuGuest
        from pydump_source_qemu.session import Session

        options = options or QemuOptions()
        refuse_pairs(options)
        if not argument:
            raise PlanError("qmp: does not name a monitor", hint="write qmp:SOCKET or qmp:HOST:PORT")
        session = Session.connect(argument, options.connect_timeout)
        try:
            return QemuGuest(session, options)
        except BaseException:
            session.close()
            raise

    @classmethod
    def watch(cls, argument: str, event: str, options: Any = None, *, known: bool = False) -> Watch:
        """Connect to a guest and hear of an event; see :class:`pydump.interfaces.watch.Watches`."""
        from pydump_source_qemu.monitor import Monitor
        from pydump_source_qemu.watch import QemuWatch

        options = options or QemuOptions()
        return QemuWatch(Monitor.connect(argument, options.connect_timeout), EVENTS[event], known=known)
