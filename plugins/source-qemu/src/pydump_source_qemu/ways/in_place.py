"""Read memory where it lies."""

from __future__ import annotations

from pydump.model.memory import MemoryMap
from pydump_qemu_stream.captured import Captured, Readable
from pydump_source_qemu.dump import fetch, read_facts, within
from pydump_source_qemu.session import Session
from pydump_source_qemu.this_host import ThisHost


def in_place(session: Session, host: ThisHost, *, runs_on: bool) -> Captured:
    """Memory that is read when it is encoded. What only QEMU can read is fetched now.

    Args:
        session: The session.
        host: This host.
        runs_on: Leave the guest running; then memory is not consistent. Else it is paused until it is released.

    Raises:
        SourceError: It failed.
    """
    if runs_on:
        session.consistent = False
    else:
        session.pause()
    head = within(read_facts(session), host.wanted)
    layout = host.layout(head.guest.memory)  # firmware may have moved some since it was planned
    pieces: list[tuple[int, int, Readable]] = [(region.paddr, region.end, region) for region in layout.regions]
    if layout.rest:
        store = host.room_for_stream(MemoryMap(layout.rest))
        store.only(fetch(session, store, layout.rest))
        pieces += [(block.paddr, block.end, store) for block in layout.rest]
    return Captured(head.guest, pieces, warnings=session.warnings)
