"""The guest behind a QMP monitor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from pydump.interfaces.image import MemoryImage
from pydump.interfaces.live import Narrow
from pydump.interfaces.source import Source
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap, Ranges
from pydump_source_qemu.options import QemuOptions

if TYPE_CHECKING:
    from pydump.model.report import ProgressCallback
    from pydump_source_qemu.captured import Captured
    from pydump_source_qemu.session import Session


class QemuSource(Source):
    """``qmp:SOCKET`` or ``qmp:HOST:PORT``: the guest behind a QMP monitor."""

    name: ClassVar[str] = "qmp"
    Options: ClassVar[type] = QemuOptions

    @classmethod
    def open(cls, argument: str, options: Any = None) -> QemuGuest:
        from pydump_source_qemu.session import Session

        options = options or QemuOptions()
        session = Session.connect(argument, options.connect_timeout)
        try:
            return QemuGuest(session, options)
        except BaseException:
            session.close()
            raise


class QemuGuest(MemoryImage):
    """A guest of QEMU, which may be running."""

    def __init__(self, session: Session, options: QemuOptions) -> None:
        from pydump_source_qemu.dump import read_facts

        self._session = session
        self._options = options
        self._guest = read_facts(session).guest
        self._captured: Captured | None = None

    def guest(self) -> Guest:
        return self._guest

    def capture(
        self, wanted: MemoryMap, progress: ProgressCallback | None = None, narrow: Narrow | None = None
    ) -> None:
        """Capture memory and facts at one moment, in the way that the options say. A second capture changes nothing."""
        from pydump_source_qemu.capture import capture

        def choose(seen: Captured, paused: bool) -> Ranges:
            assert narrow is not None
            before = self._guest
            self._guest, self._captured = seen.guest, seen
            try:
                return narrow(self, paused=paused)
            finally:
                self._guest, self._captured = before, None

        if self._captured is None:
            chooser = choose if narrow is not None else None
            self._captured = capture(self._session, self._options, wanted, self._guest, progress, chooser)
            self._guest = self._captured.guest

    def release(self) -> None:
        """Let the guest run again if it ran before."""
        self._session.release()

    @property
    def holds(self) -> bool:
        """Whether the guest is paused until :meth:`release`."""
        return self._session.stopped

    @property
    def paused_seconds(self) -> float:
        """How long the guest was paused, by QEMU's clock."""
        return self._session.paused_seconds

    @property
    def consistent(self) -> bool:
        """Whether all of memory is of the same moment."""
        return self._session.consistent

    def resets(self) -> int:
        """How often the guest was reset since it was opened."""
        return self._session.resets()

    def excluded(self) -> Ranges:
        return Ranges.empty() if self._captured is None else self._captured.excluded

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        if self._captured is not None:
            self._captured.read_into(paddr, buffer)
            return
        from pydump_source_qemu.dump import peek

        peek(self._session, paddr, buffer)

    def data_ranges(self, paddr: int, size: int) -> Iterator[tuple[int, int]]:
        """What may hold data; the rest was never written to."""
        if self._captured is None:
            yield paddr, paddr + size
        else:
            yield from self._captured.data_ranges(paddr, size)

    def warnings(self) -> tuple[str, ...]:
        return tuple(self._session.warnings)

    def describe(self) -> tuple[tuple[str, str], ...]:
        return self._session.describe()

    def close(self) -> None:
        self._session.close()
