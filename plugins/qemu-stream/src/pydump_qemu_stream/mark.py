"""What a pydump that is at work on a guest writes into QEMU: which processes they are, and what they have changed.

The mark is an object of QEMU's that does nothing, with a name that it gives to one only. QEMU itself is the one place
that all see, through whichever monitor, network, container or libvirt they come.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from pydump.process import start_time

#: Its name among QEMU's objects, and its type: one of its properties holds any text.
NAME: Final = "pydump"
TYPE: Final = "authz-simple"
PATH: Final = f"/objects/{NAME}"
PROPERTY: Final = "identity"
#: The setting that a snapshot changes, and what it sets it to, in bytes a second: no limit.
LIMIT: Final = "max-bandwidth"
BANDWIDTH: Final = 1 << 40
#: The capability that makes a migration a snapshot.
CAPABILITY: Final = "background-snapshot"
#: In the mark of a pydump that has paused the guest.
PAUSED: Final = "paused"
#: Stands for a system that does not say what it is.
UNKNOWN: Final = "-"


def identity(*pids: int, limit: int | None = None, paused: bool = False) -> str:
    """The text of a mark.

    Args:
        pids: The processes that undo what is done, one of which is enough.
        limit: What :data:`LIMIT` was before it was changed; None where it is not.
        paused: Whether they pause the guest.
    """
    fields = [_system(), *(f"{pid}:{start_time(pid)}" for pid in pids)]
    if limit is not None:
        fields.append(f"{LIMIT}={limit}")
    return " ".join([*fields, PAUSED] if paused else fields)


def is_gone(text: str) -> bool:
    """Whether all processes of a mark have been killed; those of another system count as alive."""
    system, *fields = text.split(" ")
    if system != _system() or system == UNKNOWN:
        return False
    return not any(_runs(field) for field in fields)


def names(text: str, pid: int) -> bool:
    """Whether a mark is that of a process, and perhaps of others beside it."""
    system, *fields = text.split(" ")
    return system == _system() and f"{pid}:{start_time(pid)}" in fields


def limit_of(text: str) -> int | None:
    """What :data:`LIMIT` was before it was changed, or None."""
    for field in text.split(" "):
        name, _, value = field.partition("=")
        if name == LIMIT and value.isascii() and value.isdecimal() and len(value) < 20:
            return int(value)
    return None


def has_paused(text: str) -> bool:
    """Whether the processes of a mark have paused the guest."""
    return PAUSED in text.split(" ")


def _runs(process: str) -> bool:
    """Whether a process of this system runs that a mark names: its number, and when it was started."""
    pid, _, started = process.partition(":")
    since = start_time(int(pid)) if pid.isdecimal() else None
    return since is not None and str(since) == started


def _system() -> str:
    """What tells apart the systems that give process numbers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return UNKNOWN
