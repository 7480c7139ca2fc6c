"""Are two dumps of the same guest memory and notes?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from pydump.engine.batches import BATCH_SIZE, readable_runs
from pydump.engine.planner import settle
from pydump.interfaces.source import Source
from pydump.model.guest import Guest
from pydump.model.memory import Ranges
from pydump.model.report import CompareReport, Progress, ProgressCallback
from pydump.registry import Registry

#: Differences that are reported one by one.
MAX_DIFFERENCES = 100
#: Facts that are compared when both sides state them.
FACTS = ("arch", "machine", "byte_order", "page_size", "phys_base", "n_cpus")


@dataclass(slots=True)
class _Found:
    lines: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, line: str) -> None:
        self.count += 1
        if len(self.lines) < MAX_DIFFERENCES:
            self.lines.append(line)


def run_compare(
    left: Source,
    right: Source,
    labels: tuple[str, str],
    registry: Registry,
    *,
    progress: ProgressCallback | None = None,
) -> CompareReport:
    """Compare two guests by what they are, not by how their files say it.

    Both sides are settled first as a dump would settle them, so that a fact which one file leaves out and a mistake
    which one file puts right are no difference. A format that works in pages rounds the edges of RAM to pages; what
    it adds there is zero, and no difference either.

    Args:
        left: One dump.
        right: The other.
        labels: What the user called them.
        registry: What is installed.
        progress: Told how far the run is.
    """
    began = time.monotonic()
    found = _Found()
    a, b = (settle(source.guest(), None, registry)[0] for source in (left, right))
    _compare_facts(a, b, found)
    compared, differing = _compare_memory(left, right, a, b, labels, found, progress)
    return CompareReport(*labels, compared, differing, tuple(found.lines), found.count, time.monotonic() - began)


def _compare_facts(a: Guest, b: Guest, found: _Found) -> None:
    for name in FACTS:
        ours, theirs = getattr(a, name), getattr(b, name)
        if ours != theirs and ours is not None and theirs is not None:
            found.add(f"{name}: {ours} and {theirs}")
    for i, (one, other) in enumerate(zip(a.notes, b.notes, strict=False)):
        if (one.name, one.type) != (other.name, other.type):
            found.add(f"note {i}: {one.name} type {one.type:#x} and {other.name} type {other.type:#x}")
        elif one.desc != other.desc:
            at = next(
                (k for k, (x, y) in enumerate(zip(one.desc, other.desc, strict=False)) if x != y),
                min(len(one.desc), len(other.desc)),
            )
            found.add(f"note {i}, {one.name} type {one.type:#x}: the contents part at byte {at}")
    if len(a.notes) != len(b.notes):
        found.add(f"notes: {len(a.notes)} and {len(b.notes)}")
    texts = [g.vmcoreinfo.text.rstrip(b"\0") if g.vmcoreinfo else None for g in (a, b)]
    if None not in texts and texts[0] != texts[1]:
        found.add("vmcoreinfo: the texts differ")
    elif (texts[0] is None) != (texts[1] is None):
        found.add("vmcoreinfo: only one has it")


def _compare_memory(
    left: Source,
    right: Source,
    a: Guest,
    b: Guest,
    labels: tuple[str, str],
    found: _Found,
    progress: ProgressCallback | None,
) -> tuple[int, int]:
    held = [
        guest.memory.ranges().subtract(source.excluded()).subtract(source.unreadable())
        for source, guest in ((left, a), (right, b))
    ]
    page = max(a.page_size or 4096, b.page_size or 4096)
    for i, (source, guest) in enumerate(((left, a), (right, b))):
        only = held[i].subtract(held[1 - i])
        padding = only.intersect(held[1 - i].page_aligned(page))
        for start, end in only.subtract(padding):
            found.add(f"paddr {start:#x}..{end:#x}: only {labels[i]} holds it")
        for start, end in _nonzero(source, padding, guest.page_size or page):
            found.add(f"paddr {start:#x}..{end:#x}: only {labels[i]} holds it")
    both = held[0].intersect(held[1])
    total, done, differing = both.size, 0, 0
    size = min(BATCH_SIZE, max(1, total))
    buffers = memoryview(bytearray(size)), memoryview(bytearray(size))
    step = min(a.page_size or 4096, b.page_size or 4096)
    for start, end in readable_runs(both, BATCH_SIZE):
        ours, theirs = (buffer[: end - start] for buffer in buffers)
        left.read_into(start, ours)
        right.read_into(start, theirs)
        if ours != theirs:
            for at in range(0, end - start, step):
                x, y = ours[at : at + step], theirs[at : at + step]
                if x != y:
                    differing += len(x)
                    where = next(k for k in range(len(x)) if x[k] != y[k])
                    found.add(f"paddr {start + at:#x}: the pages part at byte {where:#x}")
        done += end - start
        if progress is not None:
            progress(Progress("compare", done, total))
    return done, differing


def _nonzero(source: Source, ranges: Ranges, step: int) -> Iterator[tuple[int, int]]:
    for start, end in readable_runs(ranges, step):
        buffer = bytearray(end - start)
        source.read_into(start, memoryview(buffer))
        if any(buffer):
            yield start, end
