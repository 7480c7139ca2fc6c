"""Are two dumps of the same guest memory and notes?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pydump.engine.batches import BATCH_SIZE
from pydump.engine.facts import complete, with_registers, with_vmcoreinfo
from pydump.engine.findings import Findings
from pydump.engine.salvage import filled, read_salvaged
from pydump.engine.scan import Piece, scan
from pydump.interfaces.executor import Executor
from pydump.interfaces.image import KnowsHoles, MemoryImage
from pydump.model.findings import CompareReport, Difference
from pydump.model.guest import Guest
from pydump.model.memory import Ranges
from pydump.model.progress import ProgressCallback
from pydump.registry import Registry

#: Facts that are compared as they are completed, when both sides have them.
FACTS = ("arch", "machine", "byte_order")
#: Facts that are compared when both sides state them, be it by VMCOREINFO: what stands in for one is no difference.
STATED_FACTS = ("page_size", "phys_base", "n_cpus")
#: Facts of two guests that run Windows.
WINDOWS_FACTS = ("build", "directory_table_base")


def run_compare(
    left: MemoryImage,
    right: MemoryImage,
    labels: tuple[str, str],
    registry: Registry,
    *,
    arch: str | None = None,
    ignore_excluded: bool = False,
    executor: Executor | None = None,
    progress: ProgressCallback | None = None,
) -> CompareReport:
    """Compare two guests by what they are, not by how their files say it.

    Both sides are completed first as for a dump: a fact that one file leaves out, or a defect that one file
    corrects, is not a difference. A format that works in pages rounds the edges of RAM to pages; what
    it adds there is zero, and no difference either. Bare memory has no facts and no notes to differ in.

    Args:
        left: One dump.
        right: The other.
        labels: What the user called them.
        registry: What is installed.
        arch: An architecture's name, for a side that says none.
        ignore_excluded: Do not count what one side left out by choice.
        executor: Whose workers compare; default: as many local ones as there are CPUs.
        progress: Told how far the run is.
    """
    began = time.monotonic()
    findings: Findings[Difference] = Findings()
    stated = [left.guest(), right.guest()]
    bare = any(guest.byte_order is None for guest in stated)  # memory alone, of which nobody says anything
    for i, source in enumerate((left, right)):
        # The side without VMCOREINFO holds it in its memory, if it is the same guest.
        if not bare and stated[i].vmcoreinfo is None and stated[1 - i].vmcoreinfo is not None:
            stated[i] = with_vmcoreinfo(source, stated[i], arch, registry, executor=executor)
    a, b = (_completed(source, guest, arch, registry) for source, guest in zip((left, right), stated, strict=True))
    both_state = [name for name in STATED_FACTS if all(_states(guest, name) for guest in stated)]
    _compare_facts(a, b, (*FACTS, *both_state), findings)
    if not bare:
        _compare_notes(a, b, findings)
    compared = _compare_memory(left, right, a, b, findings, executor, progress, ignore_excluded=ignore_excluded)
    lost = left.unreadable().intersect(right.unreadable()).size
    warnings = (f"{lost} bytes of memory are unreadable in both, and were not compared",) if lost else ()
    return CompareReport(*labels, compared, findings.kept, findings.count, time.monotonic() - began, warnings)


def _completed(source: MemoryImage, guest: Guest, arch: str | None, registry: Registry) -> Guest:
    """The facts as a dump would complete them; of bare memory, what there is."""
    if arch is None and guest.byte_order is None:
        return guest
    return with_registers(source, complete(guest, arch, registry)).guest


def _states(guest: Guest, name: str) -> bool:
    """Does a side say this fact itself?"""
    if getattr(guest, name) is not None:
        return True
    return name != "n_cpus" and guest.vmcoreinfo is not None


def _compare_facts(a: Guest, b: Guest, names: tuple[str, ...], findings: Findings[Difference]) -> None:
    for name in names:
        ours, theirs = getattr(a, name), getattr(b, name)
        if ours != theirs and ours is not None and theirs is not None:
            findings.add(Difference("fact", name, left=ours, right=theirs))
    if a.windows and b.windows:
        for name in WINDOWS_FACTS:
            ours, theirs = getattr(a.windows, name), getattr(b.windows, name)
            if ours != theirs:
                findings.add(Difference("fact", f"windows {name}", left=ours, right=theirs))


def _compare_notes(a: Guest, b: Guest, findings: Findings[Difference]) -> None:
    # VMCOREINFO among the notes is the header of a Windows crash dump, which says what a file is like as well.
    left, right = ([note for note in guest.notes if not note.is_vmcoreinfo] for guest in (a, b))
    for i, (one, other) in enumerate(zip(left, right, strict=False)):
        kinds = [f"{note.name} type {note.type:#x}" for note in (one, other)]
        if kinds[0] != kinds[1]:
            findings.add(Difference("note", f"note {i}", left=kinds[0], right=kinds[1]))
        elif one.desc != other.desc:
            at = next(
                (k for k, (x, y) in enumerate(zip(one.desc, other.desc, strict=False)) if x != y),
                min(len(one.desc), len(other.desc)),
            )
            findings.add(Difference("note", f"note {i}, {kinds[0]}", offset=at))
    if len(left) != len(right):
        findings.add(Difference("note", "notes", left=len(left), right=len(right)))
    texts = [g.vmcoreinfo.text.rstrip(b"\0") if g.vmcoreinfo else None for g in (a, b)]
    if None not in texts and texts[0] != texts[1]:
        findings.add(Difference("vmcoreinfo", left=True, right=True))
    elif (texts[0] is None) != (texts[1] is None):
        findings.add(Difference("vmcoreinfo", left=texts[0] is not None, right=texts[1] is not None))


def _compare_memory(
    left: MemoryImage,
    right: MemoryImage,
    a: Guest,
    b: Guest,
    findings: Findings[Difference],
    executor: Executor | None,
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
        for start, end in only.subtract(padding).union(_not_zero(filled(source, page, 1), padding)):
            findings.add(Difference("held", paddr=start, size=end - start, left=i == 0, right=i == 1))
    for i, guest in enumerate((a, b)):
        other = (b, a)[i].memory.ranges().page_aligned(page)
        absent = guest.memory.ranges().subtract(held[i]).subtract(other)
        if ignore_excluded:
            absent = absent.subtract((left, right)[i].excluded())
        for start, end in absent:
            findings.add(Difference("ram", paddr=start, size=end - start, left=i == 0, right=i == 1))
    both = held[0].intersect(held[1])
    task = _Differences(right, min(a.page_size or 4096, b.page_size or 4096))
    last = None
    damaged: tuple[list[tuple[int, int]], ...] = ([], [])
    for pages, *lost in scan(left, both, task, executor=executor, phase="compare", progress=progress):
        for paddr, at in pages:
            if paddr != last:  # two pieces may have a part of one page each
                findings.add(Difference("contents", paddr=paddr, size=task.page_size, offset=at))
            last = paddr
        for known, more in zip(damaged, lost, strict=True):
            known += more
    ours, theirs = map(Ranges.of, damaged)
    for ranges, sides in (
        (ours.subtract(theirs), (True, False)),
        (theirs.subtract(ours), (False, True)),
        (ours.intersect(theirs), (True, True)),
    ):
        for start, end in ranges:
            findings.add(Difference("damaged", paddr=start, size=end - start, left=sides[0], right=sides[1]))
    return both.size - ours.union(theirs).size


#: ``(start, end)`` in paddr of each place.
_Places: TypeAlias = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class _Differences:
    """Reads the other side's memory beside each piece; gives the paddr of each page that differs, with its first byte
    that does, and what is damaged on the left and on the right side, as ``(start, end)`` in paddr.

    Attributes:
        right: The other side.
        page_size: Bytes of the pages that are named.
    """

    right: MemoryImage
    page_size: int

    def examine(self, piece: Piece) -> tuple[list[tuple[int, int]], _Places, _Places]:
        damaged: _Places = []
        if piece.hole:
            return [page for run in piece.runs for page in self._against_zeros(*run, damaged)], [], damaged
        data, lost = piece.salvage(self.page_size)
        ours, theirs = np.asarray(data), np.empty(piece.size, np.uint8)
        damaged += read_salvaged(self.right, piece.runs, theirs.data, self.page_size)
        unequal = ours != theirs
        if not unequal.any():
            return [], list(lost), damaged
        unknown = {start // self.page_size * self.page_size for start, _ in (*lost, *damaged)}
        ends = accumulate(end - start for start, end in piece.runs)
        pages = [
            page
            for (start, end), stop in zip(piece.runs, ends, strict=True)
            for page in self._pages(start, unequal[stop - (end - start) : stop])
            if page[0] not in unknown
        ]
        return pages, list(lost), damaged

    def _against_zeros(self, start: int, end: int, damaged: _Places) -> Iterator[tuple[int, int]]:
        """Compare with zeros. There can be terabytes of them: what the other side has no data for is not read."""
        known = self.right.data_ranges(start, end - start) if isinstance(self.right, KnowsHoles) else [(start, end)]
        done = start
        for first, last in known:
            done = max(done, first // self.page_size * self.page_size)
            while done < last:
                stop = min(end, -(-last // self.page_size) * self.page_size)  # not more: there may be many dots of data
                theirs = np.empty(min(BATCH_SIZE, stop - done), np.uint8)
                damaged += read_salvaged(self.right, [(done, done + len(theirs))], theirs.data, self.page_size)
                yield from self._pages(done, theirs != 0)
                done += len(theirs)

    def _pages(self, paddr: int, unequal: NDArray[np.bool]) -> Iterator[tuple[int, int]]:
        """The pages from ``paddr`` on of which a byte is unequal, each with the first such byte."""
        firsts = np.maximum(np.arange(-(paddr % self.page_size), len(unequal), self.page_size), 0)
        for at in firsts[np.logical_or.reduceat(unequal, firsts)].tolist():
            found = paddr + at + int(unequal[at : at + self.page_size].argmax())
            yield found // self.page_size * self.page_size, found % self.page_size


def _not_zero(source: MemoryImage, ranges: Ranges) -> Ranges:
    """Those of some short ranges that hold anything but zeros."""
    found = []
    for start, end in ranges:
        buffer = bytearray(end - start)
        source.read_into(start, memoryview(buffer))
        if any(buffer):
            found.append((start, end))
    return Ranges.of(found)
