"""Have QEMU send memory as it is now while the guest runs on."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

from pydump.errors import PlanError, SourceError
from pydump.model.guest import Guest
from pydump_qemu_stream.captured import Captured
from pydump_qemu_stream.facts import guest_of, read_vmcoreinfo
from pydump_qemu_stream.flat_view import memory_of, most_ram, places
from pydump_qemu_stream.mark import BANDWIDTH
from pydump_qemu_stream.records import PAGE_SIZE
from pydump_source_qemu.described import partly_plugged, read_places, snapshots, streams_registers
from pydump_source_qemu.dump import clipped, read_facts, within
from pydump_source_qemu.limits import MAX_SNAPSHOT
from pydump_source_qemu.migration import RamStream
from pydump_source_qemu.monitor import CommandError, Monitor, shortened
from pydump_source_qemu.pause_limit import PauseTooLongError
from pydump_source_qemu.pipe import Pipe, opened, widen
from pydump_source_qemu.session import CONT, Session
from pydump_source_qemu.store import Store
from pydump_source_qemu.this_host import ThisHost
from pydump_source_qemu.watchdog import OVER, PAUSE

#: What QEMU says of a snapshot that it cannot take, and what to do then.
NO_SNAPSHOT: Final = {
    "host kernel": "QEMU needs userfaultfd (sysctl vm.unprivileged_userfaultfd=1, or root); or take --pause copy",
    "memory configuration": "it takes memory that lies in no file; take --pause copy",
    "migration": "wait until the migration has ended, or take --pause copy",
}
#: Bytes that the state of a device has at most: so many, and so many for each page of the guest. The longest are
#: ppc64's tables of what devices may access (spapr_iommu) and s390x's memory keys (s390-skeys).
MAX_STATE: Final = 32 << 20
PAGE_STATE: Final = 8

_log = logging.getLogger("pydump.qmp")


def snapshot(session: Session, host: ThisHost, tell: Callable[[int], None]) -> Captured:
    """Memory that QEMU sends while the guest runs on. QEMU keeps each page from being written to until it is sent.

    Args:
        session: The session.
        host: This host.
        tell: Called with how many bytes have come.

    Raises:
        PlanError: The monitor is not on this host, or QEMU may not be able to take one.
        SourceError: It failed.
    """
    monitor = session.monitor
    if not monitor.local:
        raise PlanError("--pause snapshot needs QEMU's UNIX socket")
    if session.no_dump is not None and not streams_registers(monitor):
        # QEMU 7.2 ends with a division by zero when it takes one of an OpenRISC machine.
        raise PlanError("--pause snapshot has not been tested with guests of this target", hint="take --pause copy")
    store = host.room_for_stream(host.wanted)
    if host.scratch:
        store.reserve(host.wanted.ranges())
    _log.info("a snapshot by QEMU, which sends memory as it is now while the guest runs on")
    limit = monitor.field("query-migrate-parameters", "max-bandwidth", int)
    session.note_limit(limit)
    back: list[dict[str, Any]] = [
        {"execute": "migrate-set-capabilities", "arguments": snapshots(False)},
        {"execute": "migrate-set-parameters", "arguments": {"max-bandwidth": limit}},
    ]
    with opened(monitor, session.limits.snapshot) as (pipe, uri):
        # A snapshot that has begun must end: where its reader goes away or it is cancelled, QEMU 7.2 never lets go
        # of the pages, and the guest hangs at its next write. So the watchdog reads what we do not.
        close = {"execute": "closefd", "arguments": {"fdname": uri.removeprefix("fd:")}, "once": True}
        session.arm(close, {"drain": MAX_SNAPSHOT}, *back, CONT, pipe=pipe.fd)
        session.stopped = True
        try:
            _enable(monitor)
            take = _described if streams_registers(monitor) else _dumped
            guest = take(session, host, store, (pipe, uri), tell)
        except BaseException:
            session.hang_up()  # while there still is a pipe
            raise
        session.arm(*back, *([CONT] if session.stopped else []))
    for command in back:
        monitor.command(command["execute"], **command["arguments"])
    pieces = [(block.paddr, block.end, store) for block in guest.memory]
    return Captured(guest, pieces, warnings=session.warnings)


def _enable(monitor: Monitor) -> None:
    """Have the next migration be a snapshot.

    Raises:
        SourceError: QEMU cannot take one.
    """
    try:
        monitor.command("migrate-set-capabilities", **snapshots(True))
    except CommandError as error:
        hint = next((hint for words, hint in NO_SNAPSHOT.items() if words in error.why), "take --pause copy")
        raise SourceError(f"QEMU cannot take a snapshot of this guest: {error.why}", hint=hint) from None
    monitor.command("migrate-set-parameters", max_bandwidth=BANDWIDTH)


def _described(
    session: Session, host: ThisHost, store: Store, opened_pipe: tuple[Pipe, str], tell: Callable[[int], None]
) -> Guest:
    """Have QEMU send the snapshot, and keep it. QEMU alone pauses the guest, and lets it run.

    Returns:
        The facts of the moment that it is of, which the stream has.
    """
    monitor, (pipe, uri) = session.monitor, opened_pipe
    parts, partly = read_places(monitor), partly_plugged(monitor)
    memory, window = memory_of(parts), host.wanted.ranges()
    monitor.settle()
    paused = monitor.paused_seconds
    monitor.command("migrate", uri=uri)
    widen(pipe)
    must_come, most = memory.ranges().intersect(window).subtract(partly), most_ram(memory.ranges())
    ram = RamStream(pipe.read_some, parts, must_come, store.write, tell, lambda: None, most)
    with _whole(monitor):
        devices = ram.read_with_devices(MAX_STATE + memory.size // PAGE_SIZE * PAGE_STATE)
        pipe.drain(session.limits.tail)
    session.stopped = False  # QEMU has let it run; who has paused it since has done so on purpose
    if limit := session.pause_limit.seconds:
        monitor.settle()
        if monitor.paused_seconds - paused > limit:
            raise PauseTooLongError
    if read_places(monitor) != parts:
        session.warn("the guest moved memory while its snapshot was taken: parts of it may be at other addresses")
    for line in devices.warnings:
        session.warn(line)
    known = clipped(memory, window.subtract(ram.missing().intersect(partly)))
    if devices.cpus is None:
        session.warn("QEMU's snapshot has no registers that are known")
        return replace(host.guest, memory=known, notes=(), n_cpus=None)
    return guest_of(known, devices.cpus, read_vmcoreinfo(devices, known, store.read_into) or host.guest.vmcoreinfo)


def _dumped(
    session: Session, host: ThisHost, store: Store, opened_pipe: tuple[Pipe, str], tell: Callable[[int], None]
) -> Guest:
    """Have QEMU send the snapshot of a guest that we pause until it begins, and keep it.

    Returns:
        The facts of the moment that it is of, by a dump.
    """
    monitor, (pipe, uri) = session.monitor, opened_pipe
    session.pause_limit.start()
    monitor.command("stop")
    head = read_facts(session)
    memory, head = head.guest.memory.ranges(), within(head, host.wanted)
    wanted = head.guest.memory.ranges()
    parts = places(monitor.human("info mtree -f"), wanted)
    monitor.command("migrate", uri=uri)
    widen(pipe)
    ram = RamStream(pipe.read_some, parts, wanted, store.write, tell, lambda: _go_on(session), most_ram(memory))
    with _whole(monitor):
        ram.read()
        pipe.drain(session.limits.tail)
    return head.guest


@contextlib.contextmanager
def _whole(monitor: Monitor) -> Iterator[None]:
    """The stream is read within the block, and must come to its end.

    Raises:
        SourceError: It does not.
    """
    try:
        yield
    except EOFError:
        raise SourceError(f"QEMU's snapshot broke off: {_migration_error(monitor)}") from None
    if why := _migration_error(monitor):
        raise SourceError(f"QEMU's snapshot failed: {why}")


def _go_on(session: Session) -> None:
    """Let the guest run while the snapshot is sent.

    QEMU 7.2 starts it by itself; later versions put back the state from before, which is our pause. What does that
    runs in QEMU's main loop, so the question before it makes "cont" come after it. Nothing is awaited: QEMU cannot
    answer while it writes to a page that is still to be sent, and it is sent only if we read on.

    Source: bg_migration_thread in migration/migration.c; monitor_qmp_dispatcher_co in monitor/qmp.c.
    """
    session.monitor.post("query-status")
    session.monitor.post("cont")
    session.pause_limit.stop()


def _migration_error(monitor: Monitor) -> str:
    """Why the migration failed; empty if it did not."""
    deadline = time.monotonic() + monitor.limits.end
    while (status := monitor.field("query-migrate", "status", str, "none")) not in OVER:
        if time.monotonic() > deadline:
            raise SourceError(f"QEMU's snapshot does not end, with status {shortened(status)!r}")
        time.sleep(PAUSE)
    if status == "completed":
        return ""
    return shortened(monitor.field("query-migrate", "error-desc", str, "")) or status
