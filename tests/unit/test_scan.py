"""Scans: the same results for any number of workers, in order, and nothing left when one fails."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import pickle
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from pydump.builtin.local import LocalExecutor
from pydump.builtin.raw import BytesImage
from pydump.engine import compare, exclude, survey, verify, vmcoreinfo
from pydump.engine.batches import LEAST_HOLE
from pydump.engine.compare import run_compare
from pydump.engine.dump import Dump
from pydump.engine.exclude import _ZeroPages, zero_ranges
from pydump.engine.scan import Piece, data_pages, scan
from pydump.engine.survey import _Counts, run_survey
from pydump.engine.verify import _Readable, run_verify
from pydump.engine.vmcoreinfo import _Heads, find_vmcoreinfo
from pydump.errors import PlanError, PydumpError, ReadError
from pydump.interfaces.live import Capture, LiveGuest
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap, Ranges
from pydump.model.progress import Progress
from pydump.registry import Registry
from pydump.testing import guests
from pydump.testing.sources import Holed

PAGE = 4096
WORKERS = pytest.mark.parametrize("workers", [1, 2, 5])
TEXT = b"OSRELEASE=6.1.0\nPAGESIZE=4096\n"


def memory(seed: int = 1, n_pages: int = 700) -> dict[int, bytes]:
    """RAM blocks of every kind of page, of which one neither begins nor ends with a page."""
    return {
        0x1000: bytes(guests.memory(n_pages, seed=seed)),
        0x40000800: bytes(guests.memory(33, seed=seed + 1))[: 33 * PAGE - 0x900],
        1 << 33: bytes(guests.memory(70, seed=seed + 2)),
    }


def source_of(contents: dict[int, bytes], kind: type[BytesImage] = BytesImage) -> BytesImage:
    return kind(Guest(MemoryMap(), byte_order="little", elf_class=64, page_size=PAGE), dict(contents))


@dataclass(frozen=True)
class Copy:
    """Gives back what it sees."""

    def examine(self, piece: Piece) -> tuple[Any, bytes]:
        assert piece.size == sum(end - start for start, end in piece.runs)
        return piece.runs, bytes(piece.size) if piece.hole else bytes(piece.read())


@WORKERS
@pytest.mark.parametrize("piece_size", [1001, 12288, 65536 + 1, 4 << 20])
def test_pieces_come_in_order_and_hold_all_of_memory(workers: int, piece_size: int) -> None:
    contents = memory()
    source = source_of(contents)
    ranges = source.guest().memory.ranges().subtract(Ranges.of([(0x9800, 0x70001)]))
    found = list(scan(source, ranges, Copy(), executor=LocalExecutor(workers), piece_size=piece_size))
    assert Ranges.of(run for runs, _ in found for run in runs) == ranges
    runs = [run for runs, _ in found for run in runs]
    assert runs == sorted(runs)
    kept = b"".join(
        contents[block.paddr][start - block.paddr : end - block.paddr]
        for block in source.guest().memory
        for start, end in ranges.clip(block.paddr, block.end)
    )
    assert hashlib.sha256(b"".join(data for _, data in found)).digest() == hashlib.sha256(kept).digest()


@dataclass(frozen=True)
class Holes:
    def examine(self, piece: Piece) -> tuple[Any, bool]:
        return piece.runs, piece.hole


@WORKERS
def test_a_hole_is_one_piece_of_any_length(workers: int) -> None:
    contents = {0: guests.random_page(1, 1 << 20) + bytes(9 << 20) + guests.random_page(2, 1 << 20)}
    source = source_of(contents, Holed)
    found = list(
        scan(source, source.guest().memory.ranges(), Holes(), executor=LocalExecutor(workers), piece_size=1 << 20)
    )
    assert [runs for runs, hole in found if hole] == [((1 << 20, 10 << 20),)]


@WORKERS
def test_what_lies_outside_of_the_ranges_is_zero_in_whole_pages(workers: int) -> None:
    contents = {0x1800: b"x" * 0x3000}
    ((runs, data),) = scan(
        source_of(contents),
        Ranges.of([(0x1800, 0x4800)]),
        Copy(),
        unit=PAGE,
        executor=LocalExecutor(workers),
        piece_size=0x10000,
    )
    assert (runs, data) == (((0x1000, 0x5000),), bytes(0x800) + b"x" * 0x3000 + bytes(0x800))


@WORKERS
def test_nothing_to_look_at_gives_nothing(workers: int) -> None:
    assert list(scan(source_of({}), Ranges.empty(), Copy(), executor=LocalExecutor(workers))) == []


def test_no_workers_are_refused() -> None:
    with pytest.raises(PlanError, match="at least 1"):
        list(scan(source_of({0: bytes(PAGE)}), Ranges.of([(0, PAGE)]), Copy(), executor=LocalExecutor(0)))


@WORKERS
def test_progress_rises_and_ends_at_the_total(workers: int) -> None:
    source, seen = source_of(memory()), list[Progress]()
    ranges = source.guest().memory.ranges()
    list(
        scan(
            source,
            ranges,
            Holes(),
            executor=LocalExecutor(workers),
            piece_size=12288,
            phase="look",
            progress=seen.append,
        )
    )
    assert {(p.phase, p.total) for p in seen} == {("look", ranges.size)}
    done = [p.done for p in seen]
    assert done == sorted(done)
    assert done[-1] == ranges.size


@dataclass(frozen=True)
class Refuses:
    """Cannot read from an address on."""

    paddr: int

    def examine(self, piece: Piece) -> int:
        paddr = piece.runs[0][0]
        if paddr >= self.paddr:
            raise ReadError(paddr, piece.size, "the disk is on fire", hint="leave the building")
        return paddr


@WORKERS
def test_the_first_error_in_memory_ends_the_scan_after_what_came_before(workers: int) -> None:
    source, seen = source_of({0: bytes(1 << 20)}), list[int]()
    with pytest.raises(ReadError, match="on fire") as caught:
        seen.extend(
            scan(
                source, Ranges.of([(0, 1 << 20)]), Refuses(0x50000), executor=LocalExecutor(workers), piece_size=1 << 16
            )
        )
    assert (caught.value.paddr, caught.value.hint) == (0x50000, "leave the building")


@WORKERS
def test_results_before_an_error_are_given(workers: int) -> None:
    found = scan(
        source_of({0: bytes(1 << 20)}),
        Ranges.of([(0, 1 << 20)]),
        Refuses(0x30000),
        executor=LocalExecutor(workers),
        piece_size=1 << 16,
    )
    assert [next(found), next(found), next(found)] == [0, 0x10000, 0x20000]
    with pytest.raises(ReadError):
        next(found)


@dataclass(frozen=True)
class Ends:
    """Ends its process, or breaks."""

    how: str

    def examine(self, piece: Piece) -> None:
        if piece.runs[0][0] >= 0x30000:
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise MemoryError if self.how == "memory" else ZeroDivisionError("division by zero")


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("kill", "^a worker process was ended by SIGKILL; was memory short"),
        ("memory", "^out of memory$"),
        ("bug", "^internal error: ZeroDivisionError: division by zero, at paddr 0x30000; PYDUMP_DEBUG=1"),
    ],
)
def test_a_worker_that_fails_ends_the_scan_and_leaves_no_process(how: str, says: str) -> None:
    found = scan(
        source_of({0: bytes(1 << 20)}),
        Ranges.of([(0, 1 << 20)]),
        Ends(how),
        executor=LocalExecutor(2),
        piece_size=1 << 16,
    )
    with pytest.raises(PydumpError, match=says):
        list(found)
    assert multiprocessing.active_children() == []


def test_a_scan_that_is_left_early_leaves_no_process() -> None:
    found = scan(
        source_of({0: bytes(1 << 20)}), Ranges.of([(0, 1 << 20)]), Copy(), executor=LocalExecutor(2), piece_size=1 << 12
    )
    next(found)
    assert len(multiprocessing.active_children()) == 2
    assert isinstance(found, Iterator)
    found.close()  # type: ignore[attr-defined]
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("task", [_Readable(PAGE), _Counts(PAGE, 1 << 20), _Heads(), _ZeroPages(PAGE)])
def test_tasks_can_go_to_another_process(task: Any) -> None:
    """A comparison can where both of its sources can."""
    assert type(pickle.loads(pickle.dumps(task))) is type(task)


#: Pages that cannot be read.
BAD = (0x5000, 0x6000, 0x80000, 1 << 33)


class Torn(BytesImage):
    """Some pages of it cannot be read."""

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        for bad in BAD:
            if paddr <= bad < paddr + len(buffer):
                raise ReadError(bad, PAGE, "the disk is on fire")
        super().read_into(paddr, buffer)


@pytest.fixture(params=[3 * PAGE, 7 * PAGE, 4 << 20])
def pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has all scans work in pieces of another size."""

    def scan_in_pieces(*args: Any, **options: Any) -> Iterator[Any]:
        return scan(*args, **options, piece_size=request.param)

    for module in (compare, exclude, survey, verify, vmcoreinfo):
        monkeypatch.setattr(module, "scan", scan_in_pieces)


@WORKERS
@pytest.mark.usefixtures("pieces")
class TestWhatScansFindDependsOnMemoryAlone:
    def test_compare(self, workers: int, registry: Registry) -> None:
        left, right = memory(), memory()
        changed = bytearray(right[1 << 33])
        for at in (0, 0x3FFF, 0x4000, 0x5010, len(changed) - 1):
            changed[at] ^= 1
        right[1 << 33] = bytes(changed)
        right[0x40000800] = right[0x40000800][:0x900] + b"!" + right[0x40000800][0x901:]
        report = run_compare(source_of(left), source_of(right), ("a", "b"), registry, executor=LocalExecutor(workers))
        assert tuple((d.paddr, d.offset) for d in report.differences) == (
            (0x40001000, 0x100),
            (0x200000000, 0x0),
            (0x200003000, 0xFFF),
            (0x200004000, 0x0),
            (0x200005000, 0x10),
            (0x200045000, 0xFFF),
        )

    def test_verify(self, workers: int, registry: Registry) -> None:
        torn = Torn(Guest(MemoryMap(), byte_order="little", elf_class=64, page_size=PAGE), dict(memory()))
        report = run_verify(torn, "torn", registry, executor=LocalExecutor(workers))
        found = [line for line in report.faults if "on fire" in line]
        assert [str(ReadError(paddr, PAGE, "the disk is on fire")) for paddr in BAD] == found
        assert not report.intact

    def test_zero_pages(self, workers: int) -> None:
        contents = memory()
        want = [  # a page that RAM cuts is not among them
            (paddr + at, paddr + at + PAGE)
            for paddr, data in contents.items()
            for at in range(-paddr % PAGE, len(data) - PAGE + 1, PAGE)
            if not any(data[at : at + PAGE])
        ]
        source = source_of(contents)
        assert zero_ranges(source, source.guest().memory.ranges(), PAGE, executor=LocalExecutor(workers)) == Ranges.of(
            want
        )

    def test_map(self, workers: int) -> None:
        contents = memory()
        source = source_of(contents)
        cells = run_survey(source, "a", source.guest(), 64, executor=LocalExecutor(workers)).cells
        want = dict.fromkeys((cell.paddr for cell in cells), 0)
        for paddr, data in contents.items():
            data = bytes(paddr % PAGE) + data + bytes(-(paddr + len(data)) % PAGE)
            for at in range(0, len(data), PAGE):
                here = min((cell for cell in want if cell <= paddr + at), key=lambda cell: paddr + at - cell)
                want[here] += PAGE * any(data[at : at + PAGE])
        assert {cell.paddr: cell.data_size for cell in cells} == want

    def test_vmcoreinfo(self, workers: int) -> None:
        contents = memory()
        ram = bytearray(contents[0x1000])
        for at, text in ((0x50000, TEXT), (0x90000, TEXT + b"X=1\n"), (0x91000, TEXT)):
            ram[at : at + PAGE] = text.ljust(PAGE, b"\0")
        source = source_of({**contents, 0x1000: bytes(ram)})
        found = find_vmcoreinfo(source, source.guest().memory, "little", executor=LocalExecutor(workers))
        assert [info.text for info in found] == [TEXT + b"X=1\n", TEXT]


@WORKERS
def test_a_hole_of_one_side_is_compared_with_what_the_other_has(workers: int, registry: Registry) -> None:
    data = bytearray(12 << 20)
    data[5 << 20] = 1
    zero = source_of({0: bytes(12 << 20)}, Holed)
    report = run_compare(zero, source_of({0: bytes(data)}), ("a", "b"), registry, executor=LocalExecutor(workers))
    assert tuple((d.paddr, d.offset) for d in report.differences) == ((0x500000, 0x0),)


class View(BytesImage):
    """Memory of a guest that runs: only the process that opened it can read it."""

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        if multiprocessing.parent_process() is not None:
            raise ReadError(paddr, len(buffer), "another process has the monitor")
        super().read_into(paddr, buffer)


class Running(LiveGuest):
    def __init__(self) -> None:
        self._view = View(Guest(MemoryMap(), byte_order="little"), {0: bytes(guests.memory(3000))})

    def view(self) -> View:
        return self._view

    def capture(self, wanted: MemoryMap, progress: object = None, narrow: object = None) -> Capture:
        raise AssertionError("it need not be captured")

    def close(self) -> None: ...


def test_a_guest_that_is_not_captured_is_read_by_one_process(registry: Registry) -> None:
    live = Running()
    with pytest.raises(ReadError, match="another process"):
        find_vmcoreinfo(live.view(), live.view().guest().memory, "little", executor=LocalExecutor(2))
    assert Dump(live, registry, arch="dummy").look_up(0x2000).paddr == 0x2000
    with pytest.raises(PydumpError, match="VMCOREINFO|page tables"):
        Dump(live, registry, arch="dummy").read_virtual(0x2000, 1)


class TestPages:
    def test_whole_pages_lie_in_the_set(self) -> None:
        ranges = Ranges.of([(0x800, 0x1800), (0x2000, 0x3000), (0x4800, 0x7FFF), (0x9001, 0x9FFF)])
        assert ranges.whole_pages(PAGE) == Ranges.of([(0x2000, 0x3000), (0x5000, 0x7000)])

    def test_the_last_page_of_the_address_space_is_never_whole(self) -> None:
        last = (1 << 64) - PAGE
        assert Ranges.of([(last - PAGE, (1 << 64) - 1)]).whole_pages(PAGE) == Ranges.of([(last - PAGE, last)])
        assert Ranges.of([(last + 1, (1 << 64) - 1)]).whole_pages(PAGE) == Ranges.empty()
        assert Ranges.empty().whole_pages(PAGE) == Ranges.empty()

    def test_pages_without_data_are_left_out_where_the_source_knows(self) -> None:
        pages = Ranges.of([(0, 8 << 20)])
        contents = {0: bytes(3 << 20) + guests.random_page(1, 1 << 20) + bytes(4 << 20)}
        assert data_pages(source_of(contents), pages, PAGE) == pages
        assert data_pages(source_of(contents, Holed), pages, PAGE) == Ranges.of([(3 << 20, 4 << 20)])
        short = Ranges.of([(0, LEAST_HOLE - PAGE)])
        assert data_pages(source_of(contents, Holed), short, PAGE) == short

    def test_a_piece_names_its_pages(self) -> None:
        @dataclass
        class Pages:
            def examine(self, piece: Piece) -> list[int]:
                return list(map(int, piece.pages(PAGE)))

        top = (1 << 64) - 2 * PAGE
        source = source_of({PAGE: bytes(2 * PAGE), top: bytes(PAGE)})
        assert list(scan(source, source.guest().memory.ranges(), Pages(), executor=LocalExecutor(1))) == [
            [PAGE, 2 * PAGE, top]
        ]
        assert np.uint64(top) == top
