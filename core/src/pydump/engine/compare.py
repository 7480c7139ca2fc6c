"""Are two dumps of the same guest memory and notes?"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate

from pydump.engine.batches import BATCH_SIZE, Batches
from pydump.engine.executors import Job, executor_for
from pydump.engine.findings import Findings, FindingsWriter
from pydump.engine.planner import settle, with_vmcoreinfo
from pydump.interfaces.format import Batch
from pydump.interfaces.source import KnowsHoles, Source
from pydump.model.guest import Guest
from pydump.model.memory import Ranges
from pydump.model.report import CompareReport, Progress, ProgressCallback
from pydump.registry import Registry

#: Facts that are compared as they are settled, when both sides have them.
FACTS = ("arch", "machine", "byte_order")
#: Facts that are compared when both sides state them, be it by VMCOREINFO: what stands in for one is no difference.
STATED_FACTS = ("page_size", "phys_base", "n_cpus")


def run_compare(
    left: Source,
    right: Source,
    labels: tuple[str, str],
    registry: Registry,
    *,
    arch: str | None = None,
    ignore_excluded: bool = False,
    workers: int | None = None,
    progress: ProgressCallback | None = None,
) -> CompareReport:
    """Compare two guests by what they are, not by how their files say it.

    Both sides are settled first as a dump would settle them, so that a fact which one file leaves out and a mistake
    which one file puts right are no difference. A format that works in pages rounds the edges of RAM to pages; what
    it adds there is zero, and no difference either. Bare memory has no facts and no notes to differ in.

    Args:
        left: One dump.
        right: The other.
        labels: What the user called them.
        registry: What is installed.
        arch: An architecture's name, for a side that says none.
        ignore_excluded: Do not count what one side left out by choice.
        workers: Processes that compare; default: the CPUs this process may use.
        progress: Told how far the run is.
    """
    began = time.monotonic()
    findings = Findings()
    stated = [left.guest(), right.guest()]
    bare = any(guest.byte_order is None for guest in stated)  # memory alone, of which nobody says anything
    for i, source in enumerate((left, right)):
        # The side without VMCOREINFO holds it in its memory, if it is the same guest.
        if not bare and stated[i].vmcoreinfo is None and stated[1 - i].vmcoreinfo is not None:
            stated[i] = with_vmcoreinfo(source, stated[i], arch, registry)
    a, b = (_settled(guest, arch, registry) for guest in stated)
    both_state = [name for name in STATED_FACTS if all(_states(guest, name) for guest in stated)]
    _compare_facts(a, b, (*FACTS, *both_state), findings)
    if not bare:
        _compare_notes(a, b, findings)
    compared = _compare_memory(left, right, a, b, labels, findings, workers, progress, ignore_excluded=ignore_excluded)
    return CompareReport(*labels, compared, findings.lines, findings.count, time.monotonic() - began)


def _settled(guest: Guest, arch: str | None, registry: Registry) -> Guest:
    """The facts as a dump would settle them; of bare memory, what there is."""
    if arch is None and guest.byte_order is None:
        return guest
    return settle(guest, arch, registry)[0]


def _states(guest: Guest, name: str) -> bool:
    """Does a side say this fact itself?"""
    if getattr(guest, name) is not None:
        return True
    return name != "n_cpus" and guest.vmcoreinfo is not None


def _compare_facts(a: Guest, b: Guest, names: tuple[str, ...], findings: Findings) -> None:
    for name in names:
        ours, theirs = getattr(a, name), getattr(b, name)
        if ours != theirs and ours is not None and theirs is not None:
            findings.add(f"{name}: {ours} and {theirs}")


def _compare_notes(a: Guest, b: Guest, findings: Findings) -> None:
    for i, (one, other) in enumerate(zip(a.notes, b.notes, strict=False)):
        if (one.name, one.type) != (other.name, other.type):
            findings.add(f"note {i}: {one.name} type {one.type:#x} and {other.name} type {other.type:#x}")
        elif one.desc != other.desc:
            at = next(
                (k for k, (x, y) in enumerate(zip(one.desc, other.desc, strict=False)) if x != y),
                min(len(one.desc), len(other.desc)),
            )
            findings.add(f"note {i}, {one.name} type {one.type:#x}: the contents part at byte {at}")
    if len(a.notes) != len(b.notes):
        findings.add(f"notes: {len(a.notes)} and {len(b.notes)}")
    texts = [g.vmcoreinfo.text.rstrip(b"\0") if g.vmcoreinfo else None for g in (a, b)]
    if None not in texts and texts[0] != texts[1]:
        findings.add("vmcoreinfo: the texts differ")
    elif (texts[0] is None) != (texts[1] is None):
        findings.add("vmcoreinfo: only one has it")


def _compare_memory(
    left: Source,
    right: Source,
    a: Guest,
    b: Guest,
    labels: tuple[str, str],
    findings: Findings,
    workers: int | None,
    progress: ProgressCallback | None,
    *,
    ignore_excluded: bool,
) -> int:
    """Compare what both hold, and note what only one holds; returns the bytes that were compared."""
    held = [
        guest.memory.ranges().subtract(source.excluded()).subtract(source.unreadable())
        for source, guest in ((left, a), (right, b))
    ]
    page = max(a.page_size or 4096, b.page_size or 4096)
    for i, source in enumerate((left, right)):
        only = held[i].subtract(held[1 - i])
        if ignore_excluded:
            only = only.subtract((right, left)[i].excluded())
        padding = only.intersect(held[1 - i].page_aligned(page))
        for start, end in only.subtract(padding).union(_not_zero(source, padding)):
            findings.add(f"paddr {start:#x}..{end:#x}: only {labels[i]} holds it")
    for i, guest in enumerate((a, b)):
        other = (b, a)[i].memory.ranges().page_aligned(page)
        absent = guest.memory.ranges().subtract(held[i]).subtract(other)
        if ignore_excluded:
            absent = absent.subtract((left, right)[i].excluded())
        for start, end in absent:
            findings.add(f"paddr {start:#x}..{end:#x}: RAM only in {labels[i]}, which left its contents out")
    both = held[0].intersect(held[1])
    writer = _Comparison(both, right, min(a.page_size or 4096, b.page_size or 4096))
    batches = Batches(left, both, writer)

    def tell(done: int) -> None:
        if progress is not None:
            progress(Progress("compare", done, batches.total))

    executor_for(workers, batches).run(Job(batches, writer, findings, tell))
    return both.size


class _Comparison(FindingsWriter):
    """Reads the other side's memory beside each batch.

    Args:
        both: What both sides hold.
        right: The other side.
        page_size: In which pieces differences are reported.
    """

    def __init__(self, both: Ranges, right: Source, page_size: int) -> None:
        super().__init__(both)
        self._right = right
        self._page_size = page_size
        # Where in the stream each range begins, to find the paddr behind a position.
        sizes = [end - start for start, end in both]
        self._begins = [0, *accumulate(sizes)]
        self._starts = [start for start, _ in both]

    def findings(self, batch: Batch) -> Iterator[str]:
        runs = self._runs(batch.position, batch.size)
        if batch.data is None:
            yield from self._against_zeros(runs)
            return
        theirs = memoryview(bytearray(batch.size))
        self._right.read_runs(runs, theirs)
        if theirs == batch.data:
            return
        done = 0
        for start, end in runs:
            here = slice(done, done + end - start)
            yield from self._pages(start, batch.data[here], theirs[here])
            done += end - start

    def _against_zeros(self, runs: list[tuple[int, int]]) -> Iterator[str]:
        """Compare with zeros. There can be terabytes of them: what the other side has no data for is not read."""
        for start, end in runs:
            known = (
                self._right.data_ranges(start, end - start) if isinstance(self._right, KnowsHoles) else [(start, end)]
            )
            done = start
            for first, last in known:
                done = max(done, first // self._page_size * self._page_size)
                while done < last:
                    size = min(BATCH_SIZE, end - done)
                    theirs = memoryview(bytearray(size))
                    self._right.read_into(done, theirs)
                    if theirs != bytes(size):
                        yield from self._pages(done, memoryview(bytes(size)), theirs)
                    done += size

    def _runs(self, position: int, size: int) -> list[tuple[int, int]]:
        """What a piece of the stream is made of, as ``(start, end)`` in paddr."""
        runs = []
        at, end = position, position + size
        i = bisect_right(self._begins, at) - 1
        while at < end:
            stop = min(end, self._begins[i + 1])
            shift = self._starts[i] - self._begins[i]
            runs.append((at + shift, stop + shift))
            at, i = stop, i + 1
        return runs

    def _pages(self, paddr: int, ours: memoryview, theirs: memoryview) -> Iterator[str]:
        for at in range(0, len(theirs), self._page_size):
            x, y = bytes(ours[at : at + self._page_size]), bytes(theirs[at : at + self._page_size])
            if x != y:
                where = next(k for k in range(len(x)) if x[k] != y[k])
                yield f"paddr {paddr + at:#x}: the pages part at byte {where:#x}"


def _not_zero(source: Source, ranges: Ranges) -> Ranges:
    """Those of some short ranges that hold anything but zeros."""
    found = []
    for start, end in ranges:
        buffer = bytearray(end - start)
        source.read_into(start, memoryview(buffer))
        if any(buffer):
            found.append((start, end))
    return Ranges.of(found)
