"""A running QEMU guest as a source."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from pydump.errors import ReadError
from pydump.interfaces.source import Source
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap
from pydump.options import option

if TYPE_CHECKING:
    from pydump.model.report import ProgressCallback
    from pydump_source_qemu.capture import Capture


@dataclass(frozen=True, slots=True)
class QemuOptions:
    """How a guest is captured."""

    #: Its options are known by QEMU's name, not by that of its protocol.
    owner: ClassVar[str] = "qemu"

    access: str = option(
        "auto",
        help="the way to guest memory",
        choices=("auto", "shared", "process", "stream"),
    )
    pause: str = option(
        "auto",
        help="when the guest is paused; auto is copy if there is room, else full",
        choices=("auto", "copy", "snapshot", "full", "none"),
        alias="--pause",
    )
    scratch: str = option(
        "", help="keep the copy of guest memory in DIR instead of RAM", alias="--scratch", metavar="DIR"
    )
    connect_timeout: int = option(
        10,
        help="seconds to wait for the monitor",
        low=1,
        high=3600,
        alias="--connect-timeout",
        metavar="SECONDS",
    )


class Readable(Protocol):
    """Something that holds guest memory."""

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        """Fill ``buffer`` from ``paddr`` on."""
        ...

    def data_ranges(self, paddr: int, size: int) -> Iterator[tuple[int, int]]:
        """``(start, end)`` of what may hold data within the range."""
        ...


class QemuSource(Source):
    """``qmp:SOCKET`` or ``qmp:HOST:PORT``: the guest behind a QMP monitor."""

    name: ClassVar[str] = "qmp"
    Options: ClassVar[type] = QemuOptions

    def __init__(self, capture: Capture) -> None:
        self._capture = capture
        self._guest = capture.facts()
        self._starts: list[int] = []
        self._pieces: list[tuple[int, Readable]] = []

    @classmethod
    def open(cls, argument: str, options: Any = None) -> Self:
        from pydump_source_qemu.capture import Capture

        capture = Capture.connect(argument, options or QemuOptions())
        try:
            return cls(capture)
        except BaseException:
            capture.close()
            raise

    def guest(self) -> Guest:
        return self._guest

    def capture(self, wanted: MemoryMap, progress: ProgressCallback | None = None) -> None:
        """Capture memory and facts at one moment, in the way that the options say. A second capture changes nothing."""
        if self._pieces:
            return
        captured = self._capture.run(wanted, progress)
        self._guest = captured.guest
        pieces = sorted(captured.pieces, key=lambda piece: piece[0])
        self._starts = [start for start, _, _ in pieces]
        self._pieces = [(end, held) for _, end, held in pieces]

    def release(self) -> None:
        """Let the guest run again if it ran before."""
        self._capture.release()

    @property
    def holds(self) -> bool:
        """Does the guest stand still until :meth:`release`?"""
        return self._capture.holds

    @property
    def paused_seconds(self) -> float:
        """How long the guest has stood still, by QEMU's clock."""
        return self._capture.paused_seconds

    @property
    def consistent(self) -> bool:
        """Is all of memory of one moment?"""
        return self._capture.consistent

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        if not self._pieces:
            self._capture.peek(paddr, buffer)
            return
        for start, end, held in self._held(paddr, len(buffer)):
            held.read_into(start, buffer[start - paddr : end - paddr])

    def data_ranges(self, paddr: int, size: int) -> Iterator[tuple[int, int]]:
        """What may hold data; the rest was never written to."""
        if not self._pieces:
            yield paddr, paddr + size
            return
        for start, end, held in self._held(paddr, size):
            yield from held.data_ranges(start, end - start)

    def _held(self, paddr: int, size: int) -> Iterator[tuple[int, int, Readable]]:
        """``(start, end, who holds it)`` for each part of a range."""
        at, end = paddr, paddr + size
        while at < end:
            i = bisect_right(self._starts, at) - 1
            if i < 0 or at >= self._pieces[i][0]:
                raise ReadError(paddr, size, f"there is no RAM at {at:#x}")
            stop, held = min(self._pieces[i][0], end), self._pieces[i][1]
            yield at, stop, held
            at = stop

    def warnings(self) -> tuple[str, ...]:
        return tuple(self._capture.warnings)

    def describe(self) -> tuple[tuple[str, str], ...]:
        return self._capture.describe()

    def close(self) -> None:
        self._capture.close()
