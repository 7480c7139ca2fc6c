"""Flattened streams, against records put together by hand from the format's description."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pydump
from pydump.builtin.files import FileBacking
from pydump.builtin.flattened import FlattenedBacking, FlattenedSink
from pydump.errors import FormatError
from pydump.interfaces.backing import Backing
from pydump.interfaces.sink import Extent, Hole
from pydump.testing.dummy import MemorySink

HEADER = b"makedumpfile\0\0\0\0" + struct.pack(">qq", 1, 1)
END = struct.pack(">qq", -1, -1)


class BytesBacking(Backing):
    def __init__(self, data: bytes) -> None:
        self.path, self.size, self._data = "test", len(data), data

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self.check(offset, len(buffer))
        buffer[:] = self._data[offset : offset + len(buffer)]


def stream(*records: tuple[int, bytes], end: bytes = END) -> bytes:
    body = b"".join(struct.pack(">qq", offset, len(data)) + data for offset, data in records)
    return HEADER.ljust(4096, b"\0") + body + end


def test_records_in_any_order_with_gaps() -> None:
    backing = FlattenedBacking(BytesBacking(stream((10, b"world"), (0, b"hello"))))
    assert backing.size == 15
    assert backing.read(0, 15) == b"hello\0\0\0\0\0world"
    assert backing.read(3, 9) == b"lo\0\0\0\0\0wo"
    assert list(backing.data_ranges(2, 20)) == [(2, 5), (10, 15)]


@given(st.lists(st.tuples(st.integers(0, 60), st.binary(min_size=1, max_size=20)), max_size=12), st.data())
def test_a_later_record_wins(records: list[tuple[int, bytes]], data: st.DataObject) -> None:
    want = bytearray()
    for offset, piece in records:
        want.extend(bytes(max(0, offset + len(piece) - len(want))))
        want[offset : offset + len(piece)] = piece
    backing = FlattenedBacking(BytesBacking(stream(*records)))
    assert backing.size == len(want)
    assert backing.read(0, len(want)) == want
    start = data.draw(st.integers(0, len(want)))
    end = data.draw(st.integers(start, len(want)))
    assert backing.read(start, end - start) == want[start:end]


@pytest.mark.parametrize(
    "data",
    [
        stream(end=b""),
        stream(end=struct.pack(">qq", 0, 0) + END),
        stream((-5, b"y")),
        stream((0, b"x")).replace(struct.pack(">qq", 1, 1), struct.pack(">qq", 1, 2), 1),
        HEADER,
        HEADER[:20],
    ],
)
def test_a_stream_without_records_is_a_format_error(data: bytes) -> None:
    with pytest.raises(FormatError):
        FlattenedBacking(BytesBacking(data))


@pytest.mark.parametrize(
    ("end", "says"),
    [
        (b"", "ends at 0x1028 without its end mark"),
        (END[:8], "without its end mark"),
        (struct.pack(">qq", 40, 1 << 40), "without its end mark"),
        (struct.pack(">qq", 40, 0) + END, "at 0x1028 has offset 40 and size 0"),
        (struct.pack(">qq", -5, 1) + b"y" + END, "offset -5"),
        (struct.pack(">qq", (1 << 63) - 1, 1) + b"y" + END, "size 1"),
    ],
)
def test_a_stream_that_was_cut_or_damaged_holds_what_came_before(end: bytes, says: str) -> None:
    backing = FlattenedBacking(BytesBacking(stream((0, b"head"), (4, b"more"), end=end)))
    assert says in backing.warnings[0]
    assert backing.read(0, 8) == b"headmore"
    assert backing.size == 8


def test_gaps_of_a_cut_stream_are_missing_and_those_of_a_whole_one_are_zeros() -> None:
    records = ((0, b"head"), (20, b"tail"))
    assert list(FlattenedBacking(BytesBacking(stream(*records, end=b""))).missing(2, 40)) == [(4, 20), (24, 42)]
    whole = FlattenedBacking(BytesBacking(stream(*records)))
    assert whole.warnings == ()
    assert list(whole.missing(2, 40)) == [(24, 42)]


def test_a_record_that_was_cut_holds_what_is_there() -> None:
    backing = FlattenedBacking(BytesBacking(stream((0, b"0123456789"), end=b"")[:-4]))
    assert backing.read(0, backing.size) == b"012345"


def test_many_small_records_are_few_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Headers and bytes of records that follow each other are read in blocks."""
    data = bytes(range(256)) * 64
    inner = BytesBacking(stream(*((i * 4, data[i * 4 : i * 4 + 4]) for i in range(len(data) // 4))))
    reads = []
    read_into = inner.read_into
    monkeypatch.setattr(inner, "read_into", lambda *a: (reads.append(a[0]), read_into(*a)))
    backing = FlattenedBacking(inner)
    assert backing.read(0, len(data)) == data
    assert list(backing.data_ranges(1, 9000)) == [(1, 9001)]
    assert len(reads) < 20


def test_what_is_written_is_what_the_format_says(tmp_path: Path) -> None:
    inner = MemorySink()
    sink = FlattenedSink(inner)
    sink.write(Extent(4096, b"second"))
    sink.write(Hole(5000, 100))
    sink.write(Hole(4090, 8))
    sink.write(Extent(0, b"first"))
    sink.commit(5000)
    assert inner.state == "committed"
    assert bytes(inner.data) == stream((4096, b"second"), (4090, bytes(8)), (0, b"first"), (4999, b"\0"))
    path = tmp_path / "flat"
    path.write_bytes(inner.data)
    backing = FlattenedBacking(FileBacking.open(str(path)))
    assert backing.size == 5000
    assert backing.read(4094, 8) == b"\0\0\0\0cond"
    backing.close()


def far_elf(path: Path, size: int) -> str:
    """A flattened ELF file of some KiB whose one segment has ``size`` bytes, all a gap but the last page."""
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = ident + struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 0, 4096, 0, 0, size, size, 0)
    path.write_bytes(stream((0, (header + segment).ljust(4096, b"\0")), (size, b"x" * 4096)))
    return str(path)


def test_a_far_gap_is_not_read(tmp_path: Path) -> None:
    """64 TiB of nothing cost nothing to verify, map and compare."""
    size = 1 << 46
    path = far_elf(tmp_path / "far", size)
    other = far_elf(tmp_path / "other", size)
    data = bytearray(Path(other).read_bytes())
    data[-1 - 16] = 7  # the last byte of memory
    Path(other).write_bytes(data)
    began = time.process_time()
    assert pydump.verify(path, workers=1).checked_size == size
    report = pydump.survey(path, workers=1)
    assert (report.total("zero_size"), report.total("data_size")) == (size - 4096, 4096)
    assert pydump.compare(path, path, workers=1).same
    differences = pydump.compare(path, other, workers=1).differences
    assert [(d.kind, d.paddr, d.size, d.offset) for d in differences] == [("contents", size - 4096, 4096, 0xFFF)]
    assert time.process_time() - began < 5


@pytest.mark.parametrize("swap", [False, True])
def test_what_one_side_holds_in_the_others_gap_is_a_difference(swap: bool, tmp_path: Path) -> None:
    size = 8 << 20
    paths = [far_elf(tmp_path / "far", size), str(tmp_path / "full")]
    whole = FlattenedBacking(FileBacking.open(paths[0]))
    data = bytearray(whole.read(0, whole.size))
    whole.close()
    data[4096 + 0x123456] = 1
    Path(paths[1]).write_bytes(data)
    found = pydump.compare(*(paths[::-1] if swap else paths), workers=1).differences
    assert [(d.paddr, d.offset) for d in found] == [(0x123000, 0x456)]
