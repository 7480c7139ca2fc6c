"""A guest of QEMU: a view of it while it may be running, and its capture."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cached_property
from types import TracebackType

from pydump.errors import SourceError
from pydump.interfaces.image import MemoryImage
from pydump.interfaces.live import Capture, LiveGuest, Narrow
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap, Ranges
from pydump.model.progress import ProgressCallback
from pydump_qemu_stream.captured import Captured, Readable
from pydump_qemu_stream.host import Region
from pydump_qemu_stream.process import ImpossibleError
from pydump_source_qemu.capture import capture
from pydump_source_qemu.described import read_stated
from pydump_source_qemu.dump import peek, read_facts
from pydump_source_qemu.options import QemuOptions
from pydump_source_qemu.pause_limit import PauseTooLongError
from pydump_source_qemu.session import Session
from pydump_source_qemu.this_host import ThisHost

_log = logging.getLogger("pydump.qmp")


class QemuGuest(LiveGuest):
    """A guest of QEMU, which may be running.

    Args:
        session: The connection; it is closed with the guest.
        options: How the guest is captured.
    """

    def __init__(self, session: Session, options: QemuOptions) -> None:
        self._session = session
        self._options = options
        guest = read_stated(session.monitor) if session.dumps_harm else read_facts(session).guest
        self._view = QemuView(session, options, guest)

    def view(self) -> QemuView:
        return self._view

    def capture(
        self, wanted: MemoryMap, progress: ProgressCallback | None = None, narrow: Narrow | None = None
    ) -> QemuCapture:
        return QemuCapture(self._session, self._options, wanted, self._view.guest(), progress, narrow)

    def resets(self) -> int:
        """How often the guest was reset since it was opened."""
        return self._session.resets()

    def close(self) -> None:
        self._session.close()


class QemuView(MemoryImage):
    """The facts of when the guest was opened, and memory as it is now.

    Memory is read where it lies on this host, as far as that can be done; QEMU sends the rest.
    """

    def __init__(self, session: Session, options: QemuOptions, guest: Guest) -> None:
        self._session = session
        self._options = options
        self._guest = guest

    def guest(self) -> Guest:
        return self._guest

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        self._memory.read_into(paddr, buffer)

    @cached_property
    def _memory(self) -> Captured:
        """All of memory, each part with who reads it."""
        regions: list[Region] = []
        if self._options.access != "stream":
            try:
                layout = ThisHost(self._session, self._options, self._guest.memory, self._guest).layout()
                regions = [region for region in layout.regions if not region.allocates]
            except ImpossibleError as error:
                _log.info("QEMU has to send memory: %s", error.message)
        here = Ranges.of((region.paddr, region.end) for region in regions)
        pieces: list[tuple[int, int, Readable]] = [(region.paddr, region.end, region) for region in regions]
        sent = _Sent(self._session)
        pieces += [(start, end, sent) for start, end in self._guest.memory.ranges().subtract(here)]
        return Captured(self._guest, pieces)

    def warnings(self) -> tuple[str, ...]:
        refused = self._session.no_dump
        return (*self._session.warnings, *([f"the registers are not shown: {refused}"] if refused else []))

    def describe(self) -> tuple[tuple[str, str], ...]:
        return self._session.describe()


class _Sent:
    """Memory that QEMU sends, for which it pauses the guest for about a millisecond."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        """Fill ``buffer`` from ``paddr`` on."""
        peek(self._session, paddr, buffer)

    def data_ranges(self, paddr: int, size: int) -> Iterator[tuple[int, int]]:
        """All of the range."""
        yield paddr, paddr + size


class QemuCapture(Capture):
    """A capture in the way that the options and the host allow. See :func:`~pydump_source_qemu.capture.capture`."""

    def __init__(
        self,
        session: Session,
        options: QemuOptions,
        wanted: MemoryMap,
        guest: Guest,
        progress: ProgressCallback | None,
        narrow: Narrow | None,
    ) -> None:
        self._session = session
        self._options = options
        self._wanted = wanted
        self._guest = guest
        self._progress = progress
        self._narrow = narrow

    def __enter__(self) -> MemoryImage:
        try:
            return capture(self._session, self._options, self._wanted, self._guest, self._progress, self._narrow)
        except PauseTooLongError:
            self._session.hang_up()
            raise self._too_long() from None
        except BaseException:
            self._session.hang_up()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._session.release()
        else:
            self._session.hang_up()
        if kind is not None and issubclass(kind, PauseTooLongError):
            raise self._too_long() from None

    def _too_long(self) -> SourceError:
        return SourceError(
            f"the guest was paused for {self._options.timeout:g} s or longer, and its memory was not captured: "
            "it runs again",
            hint="raise --timeout" + ("" if self._options.pause == "snapshot" else ", or take --pause snapshot"),
        )

    @property
    def holds(self) -> bool:
        return self._session.stopped

    @property
    def paused_seconds(self) -> float:
        return self._session.paused_seconds

    @property
    def consistent(self) -> bool:
        return self._session.consistent
