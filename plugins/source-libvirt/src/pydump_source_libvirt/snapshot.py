"""Have QEMU send memory as it is now while the domain runs on.

In QEMU 7.2 the pages of a snapshot stay write-protected if its reader goes away or it is cancelled, and the guest hangs
at its next write. So whoever begins one reads it to its end.
"""

from __future__ import annotations

import os
from io import RawIOBase
from typing import Final

from pydump.errors import SourceError
from pydump_qemu_stream.mark import BANDWIDTH, CAPABILITY, LIMIT
from pydump_source_libvirt import mark
from pydump_source_libvirt.domain import CommandError, Domain
from pydump_source_libvirt.parent import STEP, Parent
from pydump_source_libvirt.undo import FDNAME, OVER, has_capability, migration, readable, set_back

#: What QEMU says of a snapshot that it cannot take, and what it would need.
NEEDS: Final = {
    "host kernel": "it needs userfaultfd: sysctl vm.unprivileged_userfaultfd=1, or QEMU as root",
    "memory configuration": "it takes memory that lies in no file: no hugepages or shared access in <memoryBacking>",
}


class CannotError(SourceError):
    """QEMU cannot take a snapshot of this domain, and nothing was done to it."""


def snapshot(domain: Domain, pipe: tuple[int, int], parent: Parent) -> float:
    """Have QEMU send a snapshot.

    Args:
        domain: A domain that runs.
        pipe: Its two ends, both of which are closed.
        parent: Keeps what comes. Nothing is begun if it is gone.

    Returns:
        For how many seconds the guest was paused.

    Raises:
        CannotError: QEMU cannot take one.
        SourceError: It failed. The domain is as it was, unless the error says otherwise.
    """
    reader, limit = pipe[0], None
    with open(pipe[1], "wb", 0) as writer:
        try:
            _refuse_busy(domain)
            mark.make(domain, parent.pid)
        except BaseException:
            os.close(reader)
            raise
        try:
            parent.check()
            before = domain.field("query-migrate-parameters", LIMIT, int)
            mark.note_limit(domain, parent.pid, before)
            limit = before
            _start(domain, writer)
            buffer = memoryview(bytearray(STEP))
            while readable(reader) and (n := os.readv(reader, [buffer])):
                parent.keep(buffer[:n])
        finally:
            writer.close()
            set_back(domain, reader, limit)
    if (status := migration(domain)) != "completed":
        why = domain.field("query-migrate", "error-desc", str, status)
        raise SourceError(f"QEMU's snapshot failed: {why[:300]}")
    return domain.field("query-migrate", "downtime", int, 0) / 1000


def _refuse_busy(domain: Domain) -> None:
    if migration(domain) not in OVER:
        raise SourceError(f"somebody migrates or captures the domain {domain.name}", hint="wait until that has ended")
    if has_capability(domain):
        raise SourceError(
            f"somebody prepares a snapshot of the domain {domain.name}",
            hint=f"if nobody does, QMP's migrate-set-capabilities turns {CAPABILITY} off",
        )


def _start(domain: Domain, writer: RawIOBase) -> None:
    try:
        domain.monitor("migrate-set-capabilities", capabilities=[{"capability": CAPABILITY, "state": True}])
        domain.monitor("getfd", [writer.fileno()], fdname=FDNAME)
        writer.close()  # or the stream would have no end
        domain.monitor("migrate-set-parameters", max_bandwidth=BANDWIDTH)
        domain.monitor("migrate", uri=f"fd:{FDNAME}")
    except CommandError as error:
        why = next((needs for words, needs in NEEDS.items() if words in error.why), error.why)
        raise CannotError(f"QEMU cannot take a snapshot of this domain: {why}") from None
