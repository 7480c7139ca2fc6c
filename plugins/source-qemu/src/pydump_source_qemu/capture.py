"""Capture a guest: choose the way to its memory, and go it."""

from __future__ import annotations

import logging

from pydump.interfaces.live import Narrow
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap
from pydump.model.progress import Progress, ProgressCallback
from pydump_qemu_stream.captured import Captured
from pydump_source_qemu.choose import choose
from pydump_source_qemu.described import streams_registers
from pydump_source_qemu.options import QemuOptions
from pydump_source_qemu.pause_limit import PauseLimit
from pydump_source_qemu.session import Session
from pydump_source_qemu.this_host import ThisHost
from pydump_source_qemu.ways.copy import copy
from pydump_source_qemu.ways.in_place import in_place
from pydump_source_qemu.ways.snapshot import snapshot
from pydump_source_qemu.ways.stream import stream

_log = logging.getLogger("pydump.qmp")


def capture(
    session: Session,
    options: QemuOptions,
    wanted: MemoryMap,
    guest: Guest,
    progress: ProgressCallback | None = None,
    narrow: Narrow | None = None,
) -> Captured:
    """Capture ``wanted`` in the way that the options and the host allow.

    The guest has been released when this returns, unless memory is read in place.

    Args:
        session: The session.
        options: What the user wants.
        wanted: What of its RAM will be read.
        guest: Its facts, as they were when it was opened.
        progress: Told how far it is.
        narrow: Chooses what need not be captured, or None to capture everything.

    Raises:
        PlanError: The options contradict each other, or do not fit this guest.
        SourceError: It failed. :meth:`Session.close` undoes what was done until then.
    """

    def tell(done: int) -> None:
        if progress is not None:
            progress(Progress("capture", min(done, wanted.size), wanted.size))

    session.pause_limit = PauseLimit(options.timeout)
    running = session.begin()
    host = ThisHost(session, options, wanted, guest, narrow)
    choice = choose(options, running, host)
    for line in choice.cautions:
        session.caution(line)
    for line in choice.warnings:
        session.warn(line)
    if session.no_dump is not None:
        if choice.way == "snapshot" and streams_registers(session.monitor):
            _log.info("%s: its registers come from a snapshot's stream", session.no_dump)
        else:
            session.warn(f"the registers are left out: {session.no_dump}")
    if layout := choice.layout:
        size = choice.room.size + layout.rest_size
        how = f", {size >> 20} MiB are copied" if choice.way == "copy" else "; it is read where it lies"
        _log.info("memory by way of %s%s", layout.way, "; the guest runs on" if choice.runs_on else how)
    if choice.way == "in place":
        return in_place(session, host, runs_on=choice.runs_on)
    if choice.way == "copy":
        captured = copy(session, host, choice.room, tell)
    elif choice.way == "stream":
        captured = stream(session, host, tell)
    else:
        captured = snapshot(session, host, tell)
    session.release()
    return captured
