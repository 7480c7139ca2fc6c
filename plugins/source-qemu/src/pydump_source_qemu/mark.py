"""A mark in QEMU: a pydump is at work on this guest.

Two of us would see each other's pause as the guest's own. QEMU itself is the one place that both see, through whichever
monitor, network or container they come. The mark is an object of QEMU's that does nothing, with a name that it gives to
one only; who made it stands in it.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import Any, Final

from pydump.errors import SourceError
from pydump.process import start_time
from pydump_source_qemu.guard import Guard
from pydump_source_qemu.monitor import CommandError, Monitor

#: Its name among QEMU's objects.
NAME: Final = "pydump"
#: Stands for a system that does not say what it is.
UNKNOWN: Final = "-"
#: Takes it away again.
UNMARK: Final[dict[str, Any]] = {"execute": "object-del", "arguments": {"id": NAME}, "once": True}

_log = logging.getLogger("pydump.qmp")


def mark(monitor: Monitor, guard: Guard) -> bool:
    """Make the mark, which the guard takes away again.

    Args:
        monitor: The connection.
        guard: What undoes it.

    Returns:
        Whether there was one already, of a pydump that was killed together with its watchdog.

    Raises:
        SourceError: Another pydump has made its own; or QEMU does not answer.
    """
    theirs = _found(monitor)
    if theirs is not None and not _gone(theirs):
        raise _busy()
    guard.undo_with(UNMARK)
    if theirs is not None:
        with contextlib.suppress(CommandError):
            monitor.command("object-del", id=NAME)
    ours = " ".join([_system(), *(f"{pid}:{start_time(pid)}" for pid in (os.getpid(), guard.pid))])
    try:
        monitor.command("object-add", qom_type="authz-simple", id=NAME, identity=ours)
    except CommandError as error:
        guard.undo_with()
        if _found(monitor) is not None:  # it was quicker
            raise _busy() from None
        _log.info("another pydump would not see this one: %s", error.message)
    return theirs is not None


def _busy() -> SourceError:
    return SourceError(
        "another pydump captures this guest",
        hint=f"wait until it has ended; if there is none any more, QMP's object-del takes its mark away: id {NAME!r}",
    )


def _found(monitor: Monitor) -> str | None:
    try:
        return monitor.text("qom-get", path=f"/objects/{NAME}", property="identity")
    except CommandError:
        return None


def _gone(identity: str) -> bool:
    """Whether both processes of a mark have been killed; those of another system count as alive."""
    system, *processes = identity.split(" ")
    if system != _system() or system == UNKNOWN:
        return False
    return not any(_runs(process) for process in processes)


def _runs(process: str) -> bool:
    """Whether a process of this system runs that a mark names: its number, and when it was started."""
    pid, _, started = process.partition(":")
    return pid.isdecimal() and str(start_time(int(pid))) == started


def _system() -> str:
    """What tells apart the systems that give process numbers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return UNKNOWN
