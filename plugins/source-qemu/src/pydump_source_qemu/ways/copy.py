"""Copy memory while the guest is paused."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from pydump.errors import SourceError
from pydump.model.memory import Ranges
from pydump_qemu_stream.captured import Captured
from pydump_qemu_stream.host import Region
from pydump_source_qemu.dump import STEP, fetch, read_facts, within
from pydump_source_qemu.session import Session
from pydump_source_qemu.store import Store, spare_memory
from pydump_source_qemu.this_host import ThisHost

#: More threads than this do not copy faster.
MAX_THREADS: Final = 4


def copy(session: Session, host: ThisHost, room: Ranges, tell: Callable[[int], None]) -> Captured:
    """Memory that is copied. The guest is paused meanwhile, and until it is released.

    Args:
        session: The session.
        host: This host, which has found room for the copy.
        room: What may hold data, before the guest is paused.
        tell: Called with how many bytes have been copied.

    Raises:
        SourceError: It failed.
    """
    store = host.store
    assert store is not None
    store.reserve(room)
    session.pause()
    head = within(read_facts(session), host.wanted)
    layout = host.layout(head.guest.memory)  # firmware may have moved some since it was planned
    fetched = fetch(session, store, layout.rest)
    left_out = host.left_out(head.guest, layout, store)
    data = layout.data(left_out)
    more = Ranges.of((start, end) for _, start, end in data).subtract(room)
    if host.scratch:  # writing where a disk has no room would end this process
        store.reserve(more)
    elif more.size > spare_memory():
        raise SourceError(
            f"no room for a copy of guest memory, which is {more.size >> 20} MiB larger than it seemed",
            hint="--scratch DIR, or --pause full",
        )
    _copy_all(store, data, tell)
    store.only([*((start, end) for _, start, end in data), *fetched])
    pieces = [(block.paddr, block.end, store) for block in head.guest.memory]
    return Captured(head.guest, pieces, excluded=left_out, warnings=session.warnings)


def _copy_all(store: Store, data: list[tuple[Region, int, int]], tell: Callable[[int], None]) -> None:
    def steps() -> Iterator[tuple[Region, int, int]]:
        for region, start, end in data:
            for at in range(start, end, STEP):
                yield region, at, min(STEP, end - at)

    def copy_step(step: tuple[Region, int, int]) -> int:
        region, paddr, size = step
        region.read_into(paddr, store.part(paddr, size))
        return size

    pool = ThreadPoolExecutor(min(MAX_THREADS, len(os.sched_getaffinity(0))))
    try:
        done = 0
        for size in pool.map(copy_step, steps()):
            done += size
            tell(done)
    finally:
        pool.shutdown(cancel_futures=True)
