"""A guest behind a gdb stub: a view of it, and its capture. It is paused from when it is opened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from types import TracebackType
from typing import ClassVar

from pydump.errors import ReadError
from pydump.interfaces.image import MemoryImage
from pydump.interfaces.live import Capture, LiveGuest, Narrow
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap, Ranges
from pydump.model.progress import Progress, ProgressCallback
from pydump_source_gdb.session import Session
from pydump_source_gdb.store import Store

#: Bytes that are read at once of what is captured, so that progress is seen.
STEP = 1 << 20


class GdbGuest(LiveGuest):
    """A guest behind a gdb stub.

    Args:
        session: The connection; it is closed with the guest.
    """

    paused_while_open: ClassVar[bool] = True

    def __init__(self, session: Session) -> None:
        self._session = session
        self._view = GdbView(session)

    def view(self) -> GdbView:
        return self._view

    def capture(
        self, wanted: MemoryMap, progress: ProgressCallback | None = None, narrow: Narrow | None = None
    ) -> GdbCapture:
        return GdbCapture(self._session, self._view, wanted, progress, narrow)

    def close(self) -> None:
        self._session.close()


class GdbView(MemoryImage):
    """The guest's facts, and memory as the stub reads it. What was read once is kept: the guest is paused."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._ram = session.guest.memory.ranges()

    def guest(self) -> Guest:
        return self._session.guest

    @cached_property
    def store(self) -> Store:
        """What was read."""
        return Store(self._ram)

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        self.read_runs([(paddr, paddr + len(buffer))], buffer)

    def read_runs(self, runs: Sequence[tuple[int, int]], buffer: memoryview) -> None:
        for start, end in runs:
            if self._ram.clip(start, end).size != end - start:
                raise ReadError(start, end - start, "there is no RAM in all or part of it")
        self.fetch(Ranges.of(runs))
        at = 0
        for start, end in runs:
            self.store.read_into(start, buffer[at : at + end - start])
            at += end - start

    def read_heads(self, pages: Sequence[int], size: int) -> bytes:
        """The first bytes of each page; see :class:`~pydump.interfaces.image.ReadsHeads`."""
        heads: list[bytes] = []
        self._session.read_runs([(page, page + size) for page in pages], lambda _, data: heads.append(data))
        return b"".join(heads)

    def fetch(self, wanted: Ranges, lost: Callable[[int, int], None] | None = None) -> None:
        """Have the store hold ``wanted``, in whole pages.

        Args:
            wanted: What it is to hold.
            lost: Is given paddr and size of what the stub does not give; without it that is an error.
        """
        missing = self.store.lacks(wanted)
        if missing:
            self._session.read_runs(list(missing), self.store.write, lost)
            self.store.holds(missing)

    def warnings(self) -> tuple[str, ...]:
        return tuple(self._session.warnings)

    def describe(self) -> tuple[tuple[str, str], ...]:
        return self._session.describe()


class GdbCapture(Capture):
    """A copy of what is wanted. The guest is let go when it is made, before it is encoded."""

    holds = False
    consistent = True

    def __init__(
        self,
        session: Session,
        view: GdbView,
        wanted: MemoryMap,
        progress: ProgressCallback | None,
        narrow: Narrow | None,
    ) -> None:
        self._session = session
        self._view = view
        self._wanted = wanted
        self._progress = progress
        self._narrow = narrow
        self._lost: list[tuple[int, int]] = []

    def __enter__(self) -> MemoryImage:
        try:
            excluded = Ranges.empty()
            if self._narrow is not None:
                self._narrow(self._view, paused=False)
                excluded = self._narrow(self._view, paused=True)
            wanted = self._wanted.ranges()
            excluded = excluded.intersect(wanted)
            self._copy(wanted.subtract(excluded))
        except BaseException:
            self._session.give_up()
            raise
        self._session.close()
        guest = replace(self._session.guest, memory=self._wanted)
        return Captured(guest, self._view.store, excluded, Ranges.of(self._lost), self._view.warnings())

    def _copy(self, wanted: Ranges) -> None:
        done, size = 0, wanted.size
        for start, end in wanted:
            for at in range(start, end, STEP):
                stop = min(at + STEP, end)
                self._view.fetch(Ranges.of([(at, stop)]), lambda paddr, size: self._lost.append((paddr, paddr + size)))
                done += stop - at
                if self._progress is not None:
                    self._progress(Progress("capture", done, size))

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    @property
    def paused_seconds(self) -> float:
        return self._session.paused_seconds


class Captured(MemoryImage):
    """Captured memory. Forked processes inherit it.

    Args:
        guest: The facts.
        store: Holds the memory.
        excluded: What was left out.
        unreadable: What the stub did not give.
        warnings: A line each.
    """

    def __init__(
        self, guest: Guest, store: Store, excluded: Ranges, unreadable: Ranges, warnings: tuple[str, ...]
    ) -> None:
        self._guest = guest
        self._store = store
        self._excluded = excluded
        self._unreadable = unreadable
        self._warnings = warnings

    def guest(self) -> Guest:
        return self._guest

    def excluded(self) -> Ranges:
        return self._excluded

    def unreadable(self) -> Ranges:
        return self._unreadable

    def warnings(self) -> tuple[str, ...]:
        return self._warnings

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        self._store.read_into(paddr, buffer)
