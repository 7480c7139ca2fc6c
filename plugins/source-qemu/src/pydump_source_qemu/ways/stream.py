"""Have QEMU send memory as its own dump."""

from __future__ import annotations

import logging
from collections.abc import Callable

from pydump_qemu_stream.captured import Captured
from pydump_qemu_stream.elf_head import read_head
from pydump_source_qemu.dump import read_facts, take, within
from pydump_source_qemu.pipe import elf_stream, widen
from pydump_source_qemu.session import Session
from pydump_source_qemu.this_host import ThisHost

_log = logging.getLogger("pydump.qmp")


def stream(session: Session, host: ThisHost, tell: Callable[[int], None]) -> Captured:
    """Memory that QEMU sends, together with the facts. QEMU pauses the guest meanwhile, and lets it run again.

    Args:
        session: The session.
        host: This host.
        tell: Called with how many bytes have come.

    Raises:
        SourceError: It failed.
    """
    if size := host.shared():
        session.caution(
            f"QEMU's stream makes the host allocate up to {size >> 20} MiB for the guest's shared memory, for good"
        )
    wanted = host.wanted
    store = host.room_for_stream(wanted)
    _log.info("memory by way of QEMU's stream; the guest is paused while it comes")
    window = wanted.ranges()
    whole = window == read_facts(session).guest.memory.ranges()
    session.paused_by_qemu()
    with elf_stream(session.monitor, None if whole else (wanted.start, wanted.end - wanted.start)) as pipe:
        widen(pipe)
        head = within(read_head(pipe), wanted)
        data = take(pipe, head, window, store, tell)
        pipe.drain(2 * sum(load.size for load in head.loads) + session.limits.tail)
    store.only(data)
    pieces = [(block.paddr, block.end, store) for block in head.guest.memory]
    return Captured(head.guest, pieces, warnings=session.warnings)
