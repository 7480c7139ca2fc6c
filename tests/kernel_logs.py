"""Kernel logs that have wrapped, made up as Linux writes them, in both byte orders and word sizes.

Source: kernel/printk/printk_ringbuffer.{c,h} of Linux 6.1; struct printk_log, log_has_space and log_store in
kernel/printk/printk.c of Linux 5.9.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator

import pydump
from pydump.interfaces.arch import AddressSpace, Mapping
from pydump.kernel.log import Record, read_log
from pydump.kernel.memory import KernelMemory, PhysicalMemory
from pydump.model.guest import ByteOrder, Guest
from pydump.model.memory import MemoryMap
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

    def kernel(self) -> KernelMemory:
        """The memory, as it is whenever it is read."""
        image = pydump.BytesImage(Guest(MemoryMap(())), {0: self.data})
        lines = (f"{key}={value:x}" if "SYMBOL" in key else f"{key}={value}" for key, value in self.lines.items())
        return KernelMemory(
            PhysicalMemory(image),
            Identity(),
            Vmcoreinfo("".join(f"{line}\n" for line in lines).encode()),
            byte_order=self.byte_order,
            word_size=self.word_size,
            page_size=4096,
        )

    def read(self) -> list[Record]:
        """The log."""
        return list(read_log(self.kernel()))


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
