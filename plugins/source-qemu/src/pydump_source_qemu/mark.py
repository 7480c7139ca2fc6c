"""A mark in QEMU: a pydump is at work on this guest.

Two of us would see each other's pause as the guest's own. See :mod:`pydump_qemu_stream.mark`.
"""

from __future__ import annotations

import contextlib
import logging
import os
from typing import Any, Final

from pydump.errors import SourceError
from pydump_qemu_stream.mark import (
    BANDWIDTH,
    CAPABILITY,
    LIMIT,
    NAME,
    PATH,
    PROPERTY,
    TYPE,
    identity,
    is_gone,
    limit_of,
)
from pydump_source_qemu.guard import Guard
from pydump_source_qemu.monitor import CommandError, Monitor

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
    if theirs is not None and not is_gone(theirs):
        raise _busy()
    guard.undo_with(UNMARK)
    if theirs is not None:
        _set_back(monitor, limit_of(theirs))
        with contextlib.suppress(CommandError):
            monitor.command("object-del", id=NAME)
    try:
        monitor.command("object-add", qom_type=TYPE, id=NAME, identity=identity(os.getpid(), guard.pid))
    except CommandError as error:
        guard.undo_with()
        if _found(monitor) is not None:  # it was quicker
            raise _busy() from None
        _log.info("another pydump would not see this one: %s", error.message)
    return theirs is not None


def note_limit(monitor: Monitor, guard: Guard, limit: int) -> None:
    """Write into the mark what the migration's limit is, which is changed next.

    Args:
        monitor: The connection.
        guard: Whose process the mark names.
        limit: In bytes a second.
    """
    with contextlib.suppress(CommandError):  # an old QEMU has no mark
        ours = identity(os.getpid(), guard.pid, limit=limit)
        monitor.command("qom-set", path=PATH, property=PROPERTY, value=ours)


def _set_back(monitor: Monitor, limit: int | None) -> None:
    """Set back what a pydump has set that was killed together with its watchdog."""
    with contextlib.suppress(CommandError):
        if limit is not None and monitor.field("query-migrate-parameters", LIMIT, int) == BANDWIDTH:
            off = [{"capability": CAPABILITY, "state": False}]
            monitor.command("migrate-set-capabilities", capabilities=off)
            monitor.command("migrate-set-parameters", max_bandwidth=limit)


def _busy() -> SourceError:
    return SourceError(
        "another pydump captures this guest",
        hint=f"wait until it has ended; if there is none any more, QMP's object-del takes its mark away: id {NAME!r}",
    )


def _found(monitor: Monitor) -> str | None:
    try:
        return monitor.text("qom-get", path=PATH, property=PROPERTY)
    except CommandError:
        return None
