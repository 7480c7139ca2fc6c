"""Capture a guest's memory and registers at one moment, and see that it runs again afterwards."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Self

from pydump.errors import PlanError, ReadError, SourceError
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap, Ranges
from pydump.model.report import Progress, ProgressCallback
from pydump_source_qemu.guard import Guard
from pydump_source_qemu.head import Head, read_head
from pydump_source_qemu.host import Host, Layout, Region, shared_size
from pydump_source_qemu.libvirt import caution
from pydump_source_qemu.limits import LIMITS, MAX_SNAPSHOT, Limits
from pydump_source_qemu.mark import UNMARK, mark
from pydump_source_qemu.monitor import CommandError, Monitor, shortened
from pydump_source_qemu.pipe import Pipe, await_resumed, elf_stream, opened, widen
from pydump_source_qemu.process import ImpossibleError
from pydump_source_qemu.store import NoRoomError, Store, room_for, spare_memory
from pydump_source_qemu.watchdog import MIGRATED, OVER, PAUSE, STOPPED, ForeignError, Resumed, resume

if TYPE_CHECKING:
    from pydump_source_qemu.source import QemuOptions, Readable

#: Bytes copied or read in one go.
STEP: Final = 8 << 20
#: With --pause none QEMU may stop the guest to send so much: firmware, which is never in the memory backend.
MAX_REST: Final = 64 << 20
#: More threads than this do not copy faster.
MAX_THREADS: Final = 4
#: Bytes a second that a snapshot may send: no limit.
BANDWIDTH: Final = 1 << 40
#: Seconds that QEMU may refuse to let the guest run before that is left to the watchdog.
GRACE: Final = 1
#: The run states of a guest that runs, or will when QEMU has put away a dump that has ended.
RUNNING: Final = ("running", "save-vm")
CONT: Final[dict[str, Any]] = {"execute": "cont"}
#: What QEMU says of a snapshot that it cannot take, and what to do then.
NO_SNAPSHOT: Final = {
    "host kernel": "QEMU needs userfaultfd (sysctl vm.unprivileged_userfaultfd=1, or root); or take --pause copy",
    "memory configuration": "it takes memory that lies in no file; take --pause copy",
    "migration": "wait until the migration has ended, or take --pause copy",
}

_log = logging.getLogger("pydump.qmp")


@dataclass(frozen=True, slots=True)
class Captured:
    """What a capture brought.

    Attributes:
        guest: The facts of the same moment.
        pieces: ``(start, end, who holds it)`` of all its memory.
    """

    guest: Guest
    pieces: list[tuple[int, int, Readable]]


class Capture:
    """A connection to a guest, and what was done to it.

    Attributes:
        consistent: Is all of memory of one moment?
        warnings: What the user should know of how it went, a line each.
    """

    def __init__(self, monitor: Monitor, options: QemuOptions) -> None:
        self._monitor = monitor
        self._limits = monitor.limits
        self._options = options
        self._host: Host | None = None
        self._guard: Guard | None = None
        self._stores: list[Store] = []
        #: The guest's run state before the capture, which it must have afterwards.
        self._state = ""
        self._stopped = False
        #: Whether to detect that somebody lets the guest run, and its resume count when it was paused.
        self._watched = False
        self._resumes = 0
        self._paused = 0.0
        self.consistent = True
        self.warnings: list[str] = []

    @classmethod
    def connect(cls, address: str, options: QemuOptions, limits: Limits = LIMITS) -> Self:
        """Connect to the monitor at ``address``.

        Raises:
            SourceError: There is none, or its guest cannot be captured now.
        """
        monitor = Monitor.connect(address, options.connect_timeout, limits)
        capture = cls(monitor, options)
        try:
            if line := caution(monitor):
                capture._warn_before(line)
            capture._check_state()
            capture._lock_out_others()
        except BaseException:
            capture.close()
            raise
        return capture

    def _check_state(self) -> None:
        try:
            dump = self._monitor.field("query-dump", "status", str)
        except CommandError as error:
            if "machine initialization" not in error.why:
                raise
            raise SourceError(
                "the guest is not made yet: QEMU was started with --preconfig", hint="x-exit-preconfig lets it go on"
            ) from None
        if dump == "active":
            raise SourceError("QEMU dumps this guest already", hint="wait until it has ended: query-dump says when")
        if self._monitor.field("query-status", "status", str) == "inmigrate":
            raise SourceError("the guest has not arrived yet: QEMU waits for an incoming migration")

    def _lock_out_others(self) -> None:
        self._guard = Guard(self._monitor.socket, self._limits)
        marked = mark(self._monitor, self._guard)
        self._state = await_resumed(self._monitor)
        if marked and not self._ran:
            self._warn("an earlier pydump was killed with its watchdog: the guest may be paused because of that")

    @property
    def _ran(self) -> bool:
        return self._state in RUNNING

    def _warn(self, line: str) -> None:
        _log.info("%s", line)
        self.warnings.append(line)

    def _warn_before(self, line: str) -> None:
        """Warn of what a capture costs while it can still be interrupted."""
        _log.warning("%s", line)
        self.warnings.append(line)

    def facts(self) -> Guest:
        """The guest's facts, at the price of a millisecond's stop.

        Raises:
            SourceError: QEMU does not tell them.
        """
        return self._head().guest

    def _head(self) -> Head:
        with self._held_by_qemu(), elf_stream(self._monitor) as pipe:
            return read_head(pipe)

    def _held_by_qemu(self) -> contextlib.AbstractContextManager[None]:
        """QEMU stops the guest as long as it dumps, and so as long as we read."""
        assert self._guard is not None
        return self._guard.holding()

    def run(self, wanted: MemoryMap, progress: ProgressCallback | None) -> Captured:
        """Capture ``wanted``.

        Raises:
            PlanError: The options do not go together, or not with this guest.
            SourceError: It failed. :meth:`close` puts right what was done until then.
        """
        self._state = await_resumed(self._monitor)
        running = self._ran
        pause, access = self._options.pause, self._options.access
        if pause == "none" and access == "stream":
            raise PlanError("QEMU stops the guest while it streams: --pause none needs --qemu-access shared or process")
        if pause == "snapshot" and access not in ("auto", "stream"):
            raise PlanError("--pause snapshot has its own way to memory: leave --qemu-access out")

        def tell(done: int) -> None:
            if progress is not None:
                progress(Progress("capture", min(done, wanted.size), wanted.size))

        if not running:
            _log.info("the guest is %s, and stays so", self._state)
        if pause == "snapshot" and running and not self._copies_rather(wanted):
            captured = self._snapshot(wanted, tell)
            self.release()
            return captured
        layout = self._locate(wanted, running)
        if layout is None:
            captured = self._stream(wanted, running, tell)
            self.release()
            return captured
        if layout.allocates:
            self._warn_before(
                f"reading the guest's shared memory makes the host allocate up to {layout.allocates >> 20} MiB for it, "
                "for good: this user cannot see which of it was never written to, root can"
            )
        if pause == "none" and running:
            self.consistent = False
            _log.info("memory by way of %s; the guest runs on", layout.way)
            return self._where_it_lies(wanted)
        room = Ranges.of((start, end) for _, start, end in layout.data())
        why_not = room_for(room.size + layout.rest_size, self._scratch)
        store = None
        if running and pause != "full" and not why_not:
            try:
                store = self._store(wanted, self._scratch)
            except NoRoomError as error:
                why_not = error.message
        if pause in ("auto", "copy") and running and why_not and (pause == "copy" or self._scratch):
            raise SourceError(f"no room for a copy of guest memory: {why_not}", hint="--scratch DIR, or --pause full")
        if store is None:
            _log.info("memory by way of %s; it is read where it lies", layout.way)
            if running and pause != "full":
                self._warn(f"no room for a copy, so the guest stays paused for the whole dump: {why_not}")
            self._stop(running)
            return self._where_it_lies(wanted)
        _log.info("memory by way of %s, %d MiB are copied", layout.way, room.size + layout.rest_size >> 20)
        captured = self._copy(store, wanted, room, tell)
        self.release()
        return captured

    def _copies_rather(self, wanted: MemoryMap) -> bool:
        """Is copying the better way than a snapshot? It is where a snapshot costs the host more memory than a copy.

        QEMU reads all memory before a snapshot. Where that is shared, the host allocates what was never written to, and
        keeps it as long as the guest lives. Private memory costs nothing: it gets the kernel's page of zeros.
        """
        most = shared_size(self._monitor)
        if not most:
            return False
        cost = "a snapshot makes the host allocate {} MiB for the guest's shared memory, for good"
        try:
            layout = self._layout(wanted)
        except ImpossibleError as error:
            _log.info("%s", error.message)
            self._warn_before(cost.format(f"up to {most >> 20}"))
            return False
        data = sum(end - start for _, start, end in layout.data())
        holes = layout.holes()
        if data <= holes or holes > spare_memory():
            self._warn_before(f"{cost.format(holes >> 20)}, so {data >> 20} MiB are copied instead")
            return True
        if holes:
            self._warn_before(cost.format(holes >> 20))
        return False

    @property
    def _scratch(self) -> str | None:
        return self._options.scratch or None

    # The ways to memory.

    def _layout(self, memory: MemoryMap) -> Layout:
        """Where memory lies on this host.

        Raises:
            ImpossibleError: It cannot be reached in the way that the user wants.
        """
        if self._host is None:
            self._host = Host(self._monitor)
        return self._host.locate(memory, self._options.access)

    def _locate(self, wanted: MemoryMap, running: bool) -> Layout | None:
        """Where memory lies on this host; None if only QEMU can send it.

        Raises:
            ImpossibleError: The way that the user wants is not there, or none that leaves the guest running.
        """
        access, runs_on = self._options.access, running and self._options.pause == "none"
        if access == "stream":
            return None
        try:
            layout = self._layout(wanted)
            if runs_on and layout.rest_size > MAX_REST:
                raise ImpossibleError(f"QEMU pauses the guest to send {layout.rest_size >> 20} MiB that are not shared")
            return layout
        except ImpossibleError as error:
            if self._options.pause == "none":
                raise
            if access != "auto":
                hint = "; or ".join(filter(None, (error.hint, "take --qemu-access stream")))
                raise ImpossibleError(error.message, hint=hint) from None
            _log.info("QEMU has to send memory: %s", error.message)
            return None

    def _where_it_lies(self, wanted: MemoryMap) -> Captured:
        """Memory that is read when it is encoded; what only QEMU can reach is fetched now."""
        head, layout = self._look(wanted)
        pieces: list[tuple[int, int, Readable]] = [(region.paddr, region.end, region) for region in layout.regions]
        if layout.rest:
            store = self._roomy_store(MemoryMap(layout.rest), layout.rest_size)
            store.only(self._fetch(store, layout))
            pieces += [(block.paddr, block.end, store) for block in layout.rest]
        return Captured(head.guest, pieces)

    def _copy(self, store: Store, wanted: MemoryMap, room: Ranges, tell: Callable[[int], None]) -> Captured:
        """Memory that is copied while the guest is paused."""
        store.reserve(room)
        self._stop(True)
        head, layout = self._look(wanted)
        data = layout.data()
        if self._scratch:  # what was written to since; writing where a disk has no room would end this process
            store.reserve(Ranges.of((start, end) for _, start, end in data).subtract(room))
        fetched = self._fetch(store, layout)
        self._copy_all(store, data, tell)
        store.only([*((start, end) for _, start, end in data), *fetched])
        return Captured(head.guest, [(block.paddr, block.end, store) for block in head.guest.memory])

    def _copy_all(self, store: Store, data: list[tuple[Region, int, int]], tell: Callable[[int], None]) -> None:
        def steps() -> Iterator[tuple[Region, int, int]]:
            for region, start, end in data:
                for at in range(start, end, STEP):
                    yield region, at, min(STEP, end - at)

        def copy(step: tuple[Region, int, int]) -> int:
            region, paddr, size = step
            region.read_into(paddr, store.part(paddr, size))
            return size

        pool = ThreadPoolExecutor(min(MAX_THREADS, len(os.sched_getaffinity(0))))
        try:
            done = 0
            for size in pool.map(copy, steps()):
                done += size
                tell(done)
        finally:
            pool.shutdown(cancel_futures=True)

    def _stream(self, wanted: MemoryMap, running: bool, tell: Callable[[int], None]) -> Captured:
        """Memory that QEMU sends, together with the facts; it stops the guest meanwhile, and lets it run again."""
        if size := shared_size(self._monitor):
            self._warn_before(
                f"QEMU's stream makes the host allocate up to {size >> 20} MiB for the guest's shared memory, for good"
            )
        store = self._roomy_store(wanted, wanted.size)
        _log.info("memory by way of QEMU's stream; the guest is paused while it comes")
        window = wanted.ranges()
        whole = window == self.facts().memory.ranges()
        if running:  # QEMU lets it run by itself, unless somebody else's dump comes between
            self._guarded(CONT)
            self._stopped = True
        else:
            self._watch()
        with elf_stream(self._monitor, None if whole else (wanted.start, wanted.end - wanted.start)) as pipe:
            widen(pipe)
            head = _within(read_head(pipe), wanted)
            data = _take(pipe, head, window, store, tell)
            pipe.drain(2 * sum(load.size for load in head.loads) + self._limits.tail)
        store.only(data)
        return Captured(head.guest, [(block.paddr, block.end, store) for block in head.guest.memory])

    def _snapshot(self, wanted: MemoryMap, tell: Callable[[int], None]) -> Captured:
        """Memory that QEMU sends while the guest runs on: it keeps each page until it is sent from being written to."""
        if not self._monitor.local:
            raise PlanError("--pause snapshot needs QEMU's UNIX socket")
        store = self._roomy_store(wanted, wanted.size)
        if self._scratch:
            store.reserve(wanted.ranges())
        _log.info("a snapshot by QEMU, which sends memory as it is now while the guest runs on")
        limit = self._monitor.field("query-migrate-parameters", "max-bandwidth", int)
        switch = {"capability": "background-snapshot", "state": False}
        back: list[dict[str, Any]] = [
            {"execute": "migrate-set-capabilities", "arguments": {"capabilities": [switch]}},
            {"execute": "migrate-set-parameters", "arguments": {"max-bandwidth": limit}},
        ]
        with opened(self._monitor, self._limits.snapshot) as (pipe, uri):
            # A snapshot that has begun must end: where its reader goes away or it is cancelled, QEMU 7.2 never lets go
            # of the pages, and the guest stands still at its next write. So the watchdog reads what we do not.
            close = {"execute": "closefd", "arguments": {"fdname": uri.removeprefix("fd:")}, "once": True}
            self._guarded(close, {"drain": MAX_SNAPSHOT}, *back, CONT, pipe=pipe.fd)
            self._stopped = True
            try:
                head = self._snapped(switch, pipe, uri, wanted, store, tell)
            except BaseException:
                self._hang_up()  # while there still is a pipe
                raise
            self._guarded(*back, CONT)
        for command in back:
            self._monitor.command(command["execute"], **command["arguments"])
        return Captured(head.guest, [(block.paddr, block.end, store) for block in head.guest.memory])

    def _snapped(
        self,
        switch: dict[str, Any],
        pipe: Pipe,
        uri: str,
        wanted: MemoryMap,
        store: Store,
        tell: Callable[[int], None],
    ) -> Head:
        from pydump_source_qemu.migration import RamStream, most_ram, places

        try:
            self._monitor.command("migrate-set-capabilities", capabilities=[{**switch, "state": True}])
        except CommandError as error:
            hint = next((hint for words, hint in NO_SNAPSHOT.items() if words in error.why), "take --pause copy")
            raise SourceError(f"QEMU cannot take a snapshot of this guest: {error.why}", hint=hint) from None
        self._monitor.command("migrate-set-parameters", max_bandwidth=BANDWIDTH)
        self._monitor.command("stop")
        head = self._head()
        memory, head = head.guest.memory.ranges(), _within(head, wanted)
        parts = places(self._monitor.human("info mtree -f"), head.guest.memory.ranges())
        self._monitor.command("migrate", uri=uri)
        widen(pipe)
        try:
            wanted_ranges = head.guest.memory.ranges()
            RamStream(pipe.read_some, parts, wanted_ranges, store.write, tell, self._go_on, most_ram(memory)).read()
            pipe.drain(self._limits.tail)
        except EOFError:
            raise SourceError(f"QEMU's snapshot broke off: {self._migration_error()}") from None
        if why := self._migration_error():
            raise SourceError(f"QEMU's snapshot failed: {why}")
        return head

    def _go_on(self) -> None:
        """Let the guest run while the snapshot is sent.

        QEMU 7.2 starts it by itself; later versions put back the state from before, which is our pause. What does that
        runs in QEMU's main loop, so the question before it makes "cont" come after it. Nothing is awaited: QEMU cannot
        answer while it writes to a page that is still to be sent, and it is sent only if we read on.

        Source: bg_migration_thread in migration/migration.c; monitor_qmp_dispatcher_co in monitor/qmp.c.
        """
        self._monitor.post("query-status")
        self._monitor.post("cont")

    def _migration_error(self) -> str:
        """Why the migration failed; empty if it did not."""
        deadline = time.monotonic() + self._limits.end
        while (status := self._monitor.field("query-migrate", "status", str, "none")) not in OVER:
            if time.monotonic() > deadline:
                raise SourceError(f"QEMU's snapshot does not end, with status {shortened(status)!r}")
            time.sleep(PAUSE)
        if status == "completed":
            return ""
        return shortened(self._monitor.field("query-migrate", "error-desc", str, "")) or status

    # What they are made of.

    def _stop(self, running: bool) -> None:
        """Have the guest stand still, for sure no longer than this process lives."""
        if running:
            self._guarded(CONT)
            self._monitor.command("stop")
            self._stopped = True
        self._watch()

    def _watch(self) -> None:
        """From now on nobody may let the guest run, or memory is not of one moment."""
        self._monitor.settle()
        self._watched, self._resumes = True, self._monitor.resumes

    def _guarded(self, *undo: dict[str, Any], pipe: int = -1) -> None:
        """Arm the watchdog."""
        assert self._guard is not None
        self._guard.undo_with(*undo, UNMARK, pipe=pipe)
        self._guard.hold()

    def _unguarded(self) -> None:
        """Disarm the watchdog."""
        assert self._guard is not None
        self._guard.undo_with(UNMARK)
        self._guard.let_go()

    def _look(self, wanted: MemoryMap) -> tuple[Head, Layout]:
        """The facts, and where memory lies now: firmware may have moved some since it was planned."""
        head = _within(self._head(), wanted)
        return head, self._layout(head.guest.memory)

    def _fetch(self, store: Store, layout: Layout) -> list[tuple[int, int]]:
        """Have QEMU send what cannot be read on this host.

        Returns:
            ``(start, end)`` in paddr of what of it is not zero.
        """
        data = []
        for block in layout.rest:
            with self._held_by_qemu(), elf_stream(self._monitor, (block.paddr, block.size)) as pipe:
                widen(pipe)
                head = read_head(pipe)
                window = Ranges.of([(block.paddr, block.end)])
                if head.guest.memory.ranges() != window:
                    raise ReadError(block.paddr, block.size, "there is no RAM in all or part of it")
                data += _take(pipe, head, window, store, lambda _: None)
        return data

    def _read(self, paddr: int, buffer: memoryview) -> None:
        with self._held_by_qemu(), elf_stream(self._monitor, (paddr, len(buffer))) as pipe:
            head = read_head(pipe)
            if not head.guest.memory.ranges() == Ranges.of([(paddr, paddr + len(buffer))]):
                raise ReadError(paddr, len(buffer), "there is no RAM in all or part of it")
            for load in head.loads:
                pipe.skip_to(load.offset)
                pipe.read_into(buffer[load.paddr - paddr : load.paddr - paddr + load.size])

    def peek(self, paddr: int, buffer: memoryview) -> None:
        """Read memory of the guest as it is now.

        Raises:
            SourceError: QEMU does not give it.
        """
        self._read(paddr, buffer)

    def _store(self, memory: MemoryMap, directory: str | None) -> Store:
        store = Store(memory.ranges(), directory)
        self._stores.append(store)
        return store

    def _roomy_store(self, wanted: MemoryMap, need: int) -> Store:
        """A store for memory that comes when nobody knows yet how much of it is zero; ``need`` bytes at most."""
        why_not = room_for(need, self._scratch)
        if why_not:
            raise SourceError(
                f"no room for guest memory, which comes as a stream: {why_not}",
                hint="--scratch DIR on a disk with room",
            )
        return self._store(wanted, self._scratch)

    def release(self) -> None:
        """Let the guest run again if we stopped it, and check that it does; nothing more is needed of QEMU.

        Raises:
            SourceError: QEMU is gone, or the guest does not run though it ran before.
        """
        if self._guard is None:
            return
        done = self._let_run() if self._ran else self._stays()
        self._stopped = False
        self._hang_up(wait=done)

    def _stays(self) -> bool:
        """Check that a guest that did not run is as it was. There is nothing left to do in any case."""
        status = await_resumed(self._monitor)
        if self._watched:
            self._monitor.settle()
            self.consistent = self._monitor.resumes == self._resumes and status == self._state
            self._watched = False
        if status != self._state:
            self._warn(f"the guest was {self._state} before the capture and is {status} now: somebody has changed that")
        return True

    def _let_run(self) -> bool:
        """Let the guest run; the watchdog does it if QEMU is busy with what somebody else has begun.

        Returns:
            Whether there is nothing left to do.

        Raises:
            SourceError: It does not run. If we stopped it, the watchdog stays until it runs.
        """
        if self._watched:
            self._monitor.settle()
            self.consistent = self._monitor.resumes == self._resumes
            self._watched = False
        came = Resumed(True)
        deadline = time.monotonic() + GRACE
        try:
            while self._stopped and not (came := resume(self._ask)).done and time.monotonic() < deadline:
                time.sleep(PAUSE)
        except ForeignError:
            raise self._monitor.foreign("query-status") from None
        status = await_resumed(self._monitor)
        if came.busy:
            self._guarded(CONT)
            self._warn(f"the guest does not run yet, but will as soon as QEMU lets it: {came.why}")
            return False
        if came.why == MIGRATED or (came.done and status not in STOPPED):
            self._unguarded()
            self._monitor.settle()
            if status != "running":  # what the guest does is no work of ours: it may sleep, power off or panic
                self._warn(came.why or f"the guest ran before the capture and is {status} now")
            return True
        if self._stopped:
            self._guarded(CONT)
            hint = "a watchdog process goes on trying to let it run"
        else:
            self._unguarded()
            hint = "somebody else has paused it; QMP's cont lets it run"
        self._hang_up(wait=not self._stopped)
        why = came.why or f"it is {status}"
        raise SourceError(f"the guest ran before the capture and does not run now: {why}", hint=hint)

    def _ask(self, name: str) -> dict[str, Any]:
        try:
            return {"return": self._monitor.command(name)}
        except CommandError as error:
            return {"error": {"desc": error.why}}

    def _hang_up(self, *, wait: bool = True) -> None:
        """Others may have the monitor, when the watchdog has undone what is left to undo."""
        if self._guard is None:
            return
        self._paused = self._monitor.paused_seconds
        # In this order: of two that read the connection, one would miss what the other gets.
        self._monitor.close()
        self._guard.close(wait=wait)
        self._guard = None

    @property
    def holds(self) -> bool:
        """Does the guest stand still until :meth:`release`?"""
        return self._stopped

    @property
    def paused_seconds(self) -> float:
        """How long the guest has stood still since we connected."""
        return self._paused if self._guard is None else self._monitor.paused_seconds

    def describe(self) -> tuple[tuple[str, str], ...]:
        """Lines for ``pydump info``."""
        status = self._monitor.field("query-status", "status", str)
        return (("QEMU", f"{self._monitor.version}, process {self._monitor.pid or 'unknown'}, guest {status}"),)

    def close(self) -> None:
        """Undo what is not undone, and let go of everything."""
        self._hang_up()
        self._monitor.close()
        if self._host is not None:
            self._host.close()
        for store in self._stores:
            store.close()
        self._stores = []


def _within(head: Head, wanted: MemoryMap) -> Head:
    """``head`` with no more memory than is wanted."""
    window = wanted.ranges()
    blocks = [(start, end - start) for block in head.guest.memory for start, end in window.clip(block.paddr, block.end)]
    return replace(head, guest=replace(head.guest, memory=MemoryMap.of(blocks)))


def _take(pipe: Pipe, head: Head, window: Ranges, store: Store, tell: Callable[[int], None]) -> list[tuple[int, int]]:
    """Keep the memory of a stream that lies in a window, but its zeros.

    Args:
        pipe: The stream, behind its head.
        head: Its head.
        window: What of its memory is wanted.
        store: What keeps it.
        tell: Told how many bytes have come.

    Returns:
        ``(start, end)`` in paddr of what was kept.
    """
    data: list[tuple[int, int]] = []
    buffer = memoryview(bytearray(STEP))
    done = 0
    for load in head.loads:
        for start, end in window.clip(load.paddr, load.paddr + load.size):
            pipe.skip_to(load.offset + start - load.paddr)
            for at in range(start, end, STEP):
                size = min(STEP, end - at)
                pipe.read_into(buffer[:size])
                data += store.take(at, buffer[:size])
                done += size
                tell(done)
    return data
