"""Kernel logs that have wrapped, made up as Linux writes them, in both byte orders and word sizes.

Source: kernel/printk/printk_ringbuffer.{c,h} of Linux 6.1; struct printk_log, log_has_space and log_store in
kernel/printk/printk.c of Linux 5.9.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest

import pydump
from pydump.errors import PydumpError
from pydump.interfaces.arch import AddressSpace, Mapping
from pydump.kernel.log import Record, format_record, read_log
from pydump.kernel.memory import KernelMemory, PhysicalMemory
from pydump.model.guest import ByteOrder
from pydump.model.vmcoreinfo import Vmcoreinfo

MACHINES = [("little", 8), ("big", 8), ("little", 4), ("big", 4)]
#: Where things lie in the made-up memory.
POINTER, RING, DESCRIPTORS, INFOS, TEXTS, END = 0x100, 0x200, 0x1000, 0x4000, 0x8000, 0xA000
COMMITTED, FINALIZED, REUSABLE = 1, 2, 3
INFO_SIZE, LOG_HEAD = 88, 16


class Identity(AddressSpace):
    """Virtual addresses are physical ones."""

    def translate(self, vaddr: int) -> int | None:
        return vaddr

    def mappings(self) -> Iterator[Mapping]:
        yield Mapping(0, 0, END)


class Memory:
    """Memory of a kernel, its VMCOREINFO, and how it is read."""

    def __init__(self, byte_order: ByteOrder, word_size: int) -> None:
        self.byte_order, self.word_size = byte_order, word_size
        self.order = "<" if byte_order == "little" else ">"
        self.word = "Q" if word_size == 8 else "I"
        self.data = bytearray(END)
        self.lines: dict[str, int] = {}

    def put(self, at: int, kinds: str, *values: int) -> None:
        struct.pack_into(self.order + kinds.replace("P", self.word), self.data, at, *values)

    def read(self, directory: Path) -> list[Record]:
        path = directory / "memory"
        path.write_bytes(self.data)
        lines = (f"{key}={value:x}" if "SYMBOL" in key else f"{key}={value}" for key, value in self.lines.items())
        with pydump.open(f"raw:{path}@0") as dump:
            kernel = KernelMemory(
                PhysicalMemory(dump.source),
                Identity(),
                Vmcoreinfo("".join(f"{line}\n" for line in lines).encode()),
                byte_order=self.byte_order,
                word_size=self.word_size,
                page_size=4096,
            )
            return list(read_log(kernel))


class Ring(Memory):
    """The ring buffer of Linux 5.10 and later: 32 descriptors and 1 KiB of text."""

    COUNT_BITS, SIZE_BITS = 5, 10

    def __init__(self, byte_order: ByteOrder, word_size: int) -> None:
        super().__init__(byte_order, word_size)
        w = word_size
        self.mask = (1 << 8 * w) - 1
        self.id_mask = self.mask >> 2
        self.next_id = -(1 << self.COUNT_BITS) & self.id_mask
        self.lpos = -(1 << self.SIZE_BITS) & self.mask
        self.kept: deque[tuple[int, int, str]] = deque()  # id, lpos where its text begins, text
        self.seq = 0
        texts = 5 * w
        self.lines = {
            "SYMBOL(prb)": POINTER,
            "OFFSET(printk_ringbuffer.desc_ring)": 0,
            "OFFSET(printk_ringbuffer.text_data_ring)": texts,
            "OFFSET(prb_desc_ring.count_bits)": 0,
            "OFFSET(prb_desc_ring.descs)": w,
            "OFFSET(prb_desc_ring.infos)": 2 * w,
            "OFFSET(prb_desc_ring.head_id)": 3 * w,
            "OFFSET(prb_desc_ring.tail_id)": 4 * w,
            "SIZE(prb_desc)": 3 * w,
            "OFFSET(prb_desc.state_var)": 0,
            "OFFSET(prb_desc.text_blk_lpos)": w,
            "OFFSET(prb_data_blk_lpos.begin)": 0,
            "OFFSET(prb_data_blk_lpos.next)": w,
            "SIZE(printk_info)": INFO_SIZE,
            "OFFSET(printk_info.seq)": 0,
            "OFFSET(printk_info.ts_nsec)": 8,
            "OFFSET(printk_info.text_len)": 16,
            "OFFSET(printk_info.caller_id)": 20,
            "OFFSET(printk_info.dev_info)": 24,
            "OFFSET(dev_printk_info.subsystem)": 0,
            "LENGTH(printk_info_subsystem)": 16,
            "OFFSET(dev_printk_info.device)": 16,
            "LENGTH(printk_info_device)": 48,
            "OFFSET(prb_data_ring.size_bits)": 0,
            "OFFSET(prb_data_ring.data)": w,
        }
        self.put(POINTER, "P", RING)
        self.put(RING, "I", self.COUNT_BITS)
        self.put(RING + w, "PP", DESCRIPTORS, INFOS)
        self.put(RING + texts, "I", self.SIZE_BITS)
        self.put(RING + texts + w, "P", TEXTS)

    def log(self, text: str, *, level: int = 6, state: int = FINALIZED, caller: int = 1) -> None:
        """Add a record, which takes the place of the oldest ones as it needs."""
        size, number = 1 << self.SIZE_BITS, self.next_id
        begin = following = 1  # neither lies in the ring: a record without text
        if text:
            needed = -(-(self.word_size + len(text)) // self.word_size) * self.word_size
            begin, following = self.lpos, self.lpos + needed & self.mask
            if begin // size != following // size:
                following = following // size * size + needed & self.mask
            at = begin % size if begin // size == following // size else 0
            self.put(TEXTS + begin % size, "P", number)  # left at the end by one that wraps
            self.put(TEXTS + at, "P", number)
            self.data[TEXTS + at + self.word_size : TEXTS + at + self.word_size + len(text)] = text.encode()
            self.lpos = following
        while self.kept and (len(self.kept) == 1 << self.COUNT_BITS or self._overwritten(self.kept[0][1], following)):
            old = self.kept.popleft()[0]
            self.put(DESCRIPTORS + old % 32 * 3 * self.word_size, "P", REUSABLE << 8 * self.word_size - 2 | old)
        self.kept.append((number, begin, text))
        slot = number % (1 << self.COUNT_BITS)
        self.put(
            DESCRIPTORS + slot * 3 * self.word_size, "PPP", state << 8 * self.word_size - 2 | number, begin, following
        )
        bits = level << 5 | 2 if self.byte_order == "little" else 2 << 3 | level
        self.put(INFOS + slot * INFO_SIZE, "QQHBBI", self.seq, self.seq * 1_500_000, len(text), 0, bits, caller)
        self.data[INFOS + slot * INFO_SIZE + 24 : INFOS + (slot + 1) * INFO_SIZE] = b"pci".ljust(
            16, b"\0"
        ) + b"+pci:0000:00:01.0".ljust(48, b"\0")
        self.put(RING + 3 * self.word_size, "PP", number, self.kept[0][0])
        self.seq += 1
        self.next_id = number + 1 & self.id_mask

    def _overwritten(self, begin: int, head: int) -> bool:
        return begin != 1 and head != 1 and (head - begin & self.mask) > 1 << self.SIZE_BITS


@pytest.fixture(params=MACHINES, ids=lambda m: f"{m[0]}-{8 * m[1]}")
def ring(request: pytest.FixtureRequest) -> Ring:
    return Ring(*request.param)


@pytest.mark.parametrize("records", [1, 5, 31, 32, 33, 200, 1000])
def test_a_ring_gives_the_records_that_it_still_holds(records: int, ring: Ring, tmp_path: Path) -> None:
    """Their numbers and places pass the end of a word, as in the first minutes of every kernel."""
    for i in range(records):
        ring.log(f"record {i} " + "." * (i * 7 % 40))
    found = ring.read(tmp_path)
    assert [record.text for record in found] == [text for _, _, text in ring.kept]
    assert [record.seq for record in found] == list(range(records - len(ring.kept), records))
    assert len(found) == records or records > 25
    assert found[-1].nanoseconds == (records - 1) * 1_500_000


def test_what_is_known_of_a_record(ring: Ring, tmp_path: Path) -> None:
    ring.log("one\ntwo \x1b[2J", level=3, caller=0x80000001)
    ring.log("", caller=77)
    first, second = ring.read(tmp_path)
    assert first == Record(0, 0, "one\ntwo \\x1b[2J", 3, "C1", (("subsystem", "pci"), ("device", "+pci:0000:00:01.0")))
    assert (second.text, second.caller) == ("", "T77")
    assert format_record(first) == "[    0.000000] one\n               two \\x1b[2J"


def test_records_that_are_not_whole_are_left_out(ring: Ring, tmp_path: Path) -> None:
    for i, state in enumerate((FINALIZED, 0, COMMITTED, REUSABLE, FINALIZED)):
        ring.log(f"record {i}", state=state)
    assert [record.text for record in ring.read(tmp_path)] == ["record 0", "record 2", "record 4"]


def test_a_text_that_another_has_overwritten_is_left_out(ring: Ring, tmp_path: Path) -> None:
    """A guest that was stopped while it logged: the new text is there, its descriptor is not yet."""
    for i in range(4):
        ring.log(f"record {i}")
    ring.put(TEXTS + ring.kept[1][1] % 1024, "P", 12345)
    assert [record.text for record in ring.read(tmp_path)] == ["record 0", "record 2", "record 3"]


class Records(Memory):
    """The record buffer of Linux 3.5 to 5.9: 1 KiB; a record that does not fit before the end begins at the start."""

    SIZE = 1024

    def __init__(self, byte_order: ByteOrder, word_size: int, kind: str) -> None:
        super().__init__(byte_order, word_size)
        self.first = self.next = 0
        self.kept: deque[tuple[int, str]] = deque()  # bytes, text
        self.lines = {
            "SYMBOL(log_buf)": POINTER,
            "SYMBOL(log_buf_len)": POINTER + 0x10,
            "SYMBOL(log_first_idx)": POINTER + 0x20,
            "SYMBOL(log_next_idx)": POINTER + 0x30,
            f"SIZE({kind})": LOG_HEAD,
            f"OFFSET({kind}.ts_nsec)": 0,
            f"OFFSET({kind}.len)": 8,
            f"OFFSET({kind}.text_len)": 10,
            f"OFFSET({kind}.dict_len)": 12,
        }
        self.put(POINTER, "P", TEXTS)
        self.put(POINTER + 0x10, "I", self.SIZE)

    def log(self, text: str, dictionary: bytes = b"", *, level: int = 6) -> None:
        size = -(-(LOG_HEAD + len(text) + len(dictionary)) // 8) * 8
        while self.kept and not self._has_room(size):
            self.kept.popleft()
            length = self._length(self.first)
            self.first = self.first + length if length else self._length(0)
        if self.next + size + LOG_HEAD > self.SIZE:  # there must be room for the head that says so
            self.data[TEXTS + self.next : TEXTS + self.next + LOG_HEAD] = bytes(LOG_HEAD)
            self.next = 0
        bits = level << 5 if self.byte_order == "little" else level
        at = TEXTS + self.next
        self.put(at, "QHHHBB", len(text) * 1_000_000_000, size, len(text), len(dictionary), 0, bits)
        self.data[at + LOG_HEAD : at + size] = (text.encode() + dictionary).ljust(size - LOG_HEAD, b"\0")
        self.next += size
        self.kept.append((size, text))
        self.put(POINTER + 0x20, "I", self.first)
        self.put(POINTER + 0x30, "I", self.next)

    def _length(self, at: int) -> int:
        return int(struct.unpack_from(self.order + "H", self.data, TEXTS + at + 8)[0])

    def _has_room(self, size: int) -> bool:
        if self.next > self.first:
            return max(self.SIZE - self.next, self.first) >= size + LOG_HEAD
        return self.first - self.next >= size + LOG_HEAD


@pytest.fixture(params=["printk_log", "log"], ids=["linux-3.11-to-5.9", "linux-3.5-to-3.10"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=MACHINES, ids=lambda m: f"{m[0]}-{8 * m[1]}")
def buffer(request: pytest.FixtureRequest, kind: str) -> Records:
    return Records(*request.param, kind)


@pytest.mark.parametrize("records", [1, 5, 30, 31, 40, 500])
def test_a_record_buffer_gives_the_records_that_it_still_holds(records: int, buffer: Records, tmp_path: Path) -> None:
    for i in range(records):
        buffer.log(f"record {i} " + "." * (i * 11 % 60))
    found = buffer.read(tmp_path)
    assert [record.text for record in found] == [text for _, text in buffer.kept]
    assert 10 < len(found) < records or records <= 30


def test_a_record_has_a_level_and_a_dictionary(buffer: Records, tmp_path: Path) -> None:
    buffer.log("probed", b"SUBSYSTEM=pci\0DEVICE=+pci:0000:00:01.0\0", level=4)
    assert buffer.read(tmp_path) == [
        Record(0, 6_000_000_000, "probed", 4, "", (("SUBSYSTEM", "pci"), ("DEVICE", "+pci:0000:00:01.0")))
    ]


def test_a_record_that_runs_over_the_end_is_an_error(buffer: Records, tmp_path: Path) -> None:
    buffer.log("fine")
    buffer.log("damaged")
    buffer.put(TEXTS + buffer.kept[0][0] + 8, "H", 0xFFF0)
    with pytest.raises(PydumpError, match="the record is damaged"):
        buffer.read(tmp_path)
