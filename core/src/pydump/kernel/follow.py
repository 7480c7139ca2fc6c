"""The kernel log of a guest that runs: what was logged since the last look."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from pydump.errors import PlanError
from pydump.kernel.log import Record, Ring, read_log

if TYPE_CHECKING:
    from pydump.kernel.memory import KernelMemory

#: States of a descriptor: its record is being written; is whole, but may be continued; does not change any more.
#: Source: enum desc_state in kernel/printk/printk_ringbuffer.h.
RESERVED, COMMITTED, FINALIZED = 0, 1, 2
#: Records that are read in one look.
AT_ONCE: Final = 4096


class News(NamedTuple):
    """What a look found.

    Attributes:
        records: New records, the oldest first.
        overwritten: How many were overwritten by newer ones before they were read; None where nobody knows how many.
        more: Whether there are more that can be read now.
    """

    records: tuple[Record, ...] = ()
    overwritten: int | None = 0
    more: bool = False


class Follower:
    """Reads a kernel log again and again.

    The guest logs meanwhile. So a look reads which record is the oldest before and after it reads records, and takes
    none that may have been overwritten in between. It reads no more than what is new, and at most ``AT_ONCE`` records.

    Args:
        kernel: The kernel's memory.
    """

    def __init__(self, kernel: KernelMemory) -> None:
        self._kernel = kernel
        self._next: int | None = None
        self._last: Record | None = None

    def look(self) -> News:
        """What is new since the last look; at the first all that is there.

        Raises:
            PlanError: VMCOREINFO does not lead to the log, or what is there does not add up; it may at the next look.
            ReadError: The log cannot be read.
        """
        return self._look_at_ring() if self._kernel.symbol("prb") is not None else self._look_at_records()

    def _look_at_ring(self) -> News:
        ring = Ring.of(self._kernel)
        mask = ring.id_mask
        tail, n_records = ring.bounds()
        first = tail if self._next is None else self._next
        n_new = tail + n_records - first & mask
        if n_new > mask >> 1:
            raise _anew()
        overwritten = max(0, n_new - n_records)
        n_read = min(n_new - overwritten, AT_ONCE)
        if not n_read:
            return News()
        first = first + overwritten & mask
        numbers, descriptors, infos = ring.rows(first, n_read)
        states = ring.states(numbers, descriptors).tolist()
        n_done = next((i for i, state in enumerate(states) if state in (RESERVED, COMMITTED)), n_read)

        def read(start: int, end: int) -> bytes:
            return self._kernel.read(ring.texts + start, end - start)

        texts = [
            ring.text(descriptors[i], int(numbers[i]), read) if states[i] == FINALIZED else None for i in range(n_done)
        ]
        passed = ring.bounds()[0] - first & mask
        passed = min(n_done, passed) if passed <= mask >> 1 else 0
        found = [ring.record(infos[i], text) for i, text in enumerate(texts) if i >= passed and text is not None]
        if found and self._last is not None and found[0].seq <= self._last.seq:
            raise _anew()
        # A ring begins with a descriptor that never had a record; so nothing is missed by who sees it first.
        lost = 0 if self._next is None else overwritten + n_done - len(found)
        self._last = found[-1] if found else self._last
        self._next = first + n_done & mask
        return News(tuple(found), lost, more=n_done == n_read < n_new - overwritten)

    def _look_at_records(self) -> News:
        """The record buffer of kernels before 5.10, which does not number its records."""
        index = self._kernel.symbol("log_next_idx")
        if index is not None:
            end = int.from_bytes(self._kernel.read(index, 4), self._kernel.byte_order)
            if end == self._next:
                return News()
            self._next = end
        records = [replace(record, seq=0) for record in read_log(self._kernel)]
        known = self._last
        at = next((i for i in range(len(records), 0, -1) if records[i - 1] == known), 0)
        self._last = records[-1] if records else None
        return News(tuple(records[at:]), None if known is not None and not at else 0)


def _anew() -> PlanError:
    return PlanError("the kernel log begins anew", hint="the guest may have been reset")
