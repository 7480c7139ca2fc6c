"""Set back what a capture has changed of a domain, through a libvirtd that may be started again meanwhile."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable
from typing import Final

from pydump.errors import SourceError
from pydump_qemu_stream.mark import BANDWIDTH, CAPABILITY, LIMIT, has_paused, is_gone, limit_of, names
from pydump_source_libvirt import mark
from pydump_source_libvirt.domain import PAUSED, RUNNING, CommandError, Domain, GoneError
from pydump_source_libvirt.parent import STEP

#: What QEMU calls the pipe that it sends a snapshot through.
FDNAME: Final = "pydump-snapshot"
#: Migration states in which nothing is under way. Source: MigrationStatus in qapi/migration.json.
OVER: Final = ("none", "completed", "failed", "cancelled")
#: Seconds in which QEMU sends nothing before it is given up, and in which one thing is set back.
SILENCE: Final = 3600
PATIENCE: Final = 60
#: Seconds in which a domain is let run, for nobody else will do it.
DAY: Final = 86400
#: Seconds between two attempts.
PAUSE: Final = 0.05


def set_back(domain: Domain, reader: int, limit: int | None) -> None:
    """Let a snapshot that may have begun come to its end, set back what was set, and take the mark away.

    Args:
        domain: The domain.
        reader: The pipe, which is read to its end and closed.
        limit: What the migration's limit was; None where nothing was changed.

    Raises:
        SourceError: It cannot be done. The mark stays, and the next pydump tries again.
    """
    if limit is not None:
        insist(domain, lambda: _close(domain))
        while readable(reader) and os.read(reader, STEP):
            pass
        insist(domain, lambda: _ended(domain))
        insist(domain, lambda: reset(domain, limit))
    os.close(reader)
    insist(domain, lambda: mark.remove(domain))


def set_back_after(domain: Domain, reader: int) -> None:
    """As :func:`set_back`, after another process of ours that was killed in the middle of it."""
    text = mark.found(domain)
    if text is not None and names(text, os.getpid()):
        if has_paused(text):
            let_run(domain)
        set_back(domain, reader, limit_of(text))
    else:
        os.close(reader)


def recover(domain: Domain) -> None:
    """Set back what a pydump has left behind all of whose processes were killed.

    Raises:
        SourceError: Another pydump captures this domain, or QEMU is still at work on the snapshot.
    """
    text = mark.found(domain)
    if text is None:
        return
    if not is_gone(text):
        raise mark.busy(domain)
    if has_paused(text):
        let_run(domain)
    if (limit := limit_of(text)) is not None:
        insist(domain, lambda: _ended(domain))
        reset(domain, limit)
    mark.remove(domain)


def let_run(domain: Domain) -> None:
    """Let a domain run that we have paused, unless it is not paused any more.

    Raises:
        SourceError: libvirt does not let it run, however long it is tried.
    """

    def attempt() -> None:
        if domain.state() == PAUSED:
            domain.resume()
            domain.await_state(RUNNING)

    insist(domain, attempt, DAY)


def reset(domain: Domain, limit: int) -> None:
    """Set back what is set for a snapshot, unless somebody else has set it since."""
    if domain.field("query-migrate-parameters", LIMIT, int) == BANDWIDTH:
        domain.monitor("migrate-set-parameters", max_bandwidth=limit)
    if has_capability(domain):
        domain.monitor("migrate-set-capabilities", capabilities=[{"capability": CAPABILITY, "state": False}])


def has_capability(domain: Domain) -> bool:
    """Whether the next migration would be a snapshot."""
    switches = domain.rows("query-migrate-capabilities")
    return any(one.get("capability") == CAPABILITY and one.get("state") for one in switches)


def migration(domain: Domain) -> str:
    """The state of the last migration."""
    return domain.field("query-migrate", "status", str, "none")


def _close(domain: Domain) -> None:
    with contextlib.suppress(CommandError):  # a migration that has begun has taken it
        domain.monitor("closefd", fdname=FDNAME)


def _ended(domain: Domain) -> None:
    if (status := migration(domain)) not in OVER:
        raise SourceError(f"QEMU's snapshot does not end, with status {status[:40]!r}")


def insist(domain: Domain, attempt: Callable[[], object], patience: float = PATIENCE) -> None:
    """Try until it is done; libvirtd may have been started again meanwhile.

    Raises:
        SourceError: It cannot be done in ``patience`` seconds.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            attempt()
        except GoneError:
            return  # nothing is left to set back
        except SourceError as error:
            if time.monotonic() > deadline:
                raise
            time.sleep(PAUSE)
            if not isinstance(error, CommandError):
                with contextlib.suppress(SourceError):
                    domain.reconnect()
        else:
            return


def readable(fd: int) -> bool:
    """Wait until there is something to read, or the other end is closed. False after an hour of silence."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(SILENCE * 1000))
