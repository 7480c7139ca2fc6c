"""A made-up Windows guest: page tables, shared page, kernel image, debugger data block, processors, contexts.

No code of pydump's makes it. No Windows is in it: the structs lie where Windows and QEMU say that they lie.
Source: QEMU's include/qemu/win_dump_defs.h, dump/win_dump.c and contrib/elf2dmp (main.c, kdbg.h, pe.h); Intel's manual,
volume 3, chapter 4, for the page tables.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

PAGE = 4096
#: RAM: two blocks, as a PC has them.
BLOCKS = ((0, 0xA0000), (0x100000, 0x400000))
KERNEL = {64: 0xFFFFF80012400000, 32: 0x82A00000}
SHARED = {64: 0xFFFFF78000000000, 32: 0xFFDF0000}
IMAGE_SIZE = 0x9000
BUILD = 19045
#: What KiWaitNever, KiWaitAlways and the address of KdpDataBlockEncoded are in this boot.
NEVER, ALWAYS, ENCODED_AT = 0x8F3A_62C1_55D0_97B3, 0x1234_5678_9ABC_DEF1, KERNEL[64] + 0x5128
KDBG_SIZE = 0x380
#: Offset of the pointer to the context in a processor's control block.
PRCB_CONTEXT = 0x2F8
MODULES, PROCESSES, PFN_DATABASE, BUGCHECK, BLOCK_OF_PROCESSORS = 0x5010, 0x5020, 0x5030, 0x5040, 0x5080
KDBG_AT, IDT_AT, HANDLER = 0x6F40, 0x8000, 0x1230
CONTEXT_SIZE = {64: 1232, 32: 716}


def rol(value: int, n: int) -> int:
    n %= 64
    return (value << n | value >> (64 - n)) & (1 << 64) - 1


def encoded(data: bytes) -> bytes:
    """The block as Windows 8 and later keep it: the inverse of elf2dmp's kdbg_decode."""
    out = b""
    for (word,) in struct.iter_unpack("<Q", data):
        word ^= ALWAYS
        word = int.from_bytes(word.to_bytes(8, "little"), "big") ^ ENCODED_AT
        out += struct.pack("<Q", rol(word, -NEVER) ^ NEVER)
    return out


@dataclass
class WindowsGuest:
    """One guest.

    Attributes:
        bits: 64 or 32.
        pae: Whether a 32-bit guest has entries of 8 bytes.
        encode: Whether the debugger's data block is encoded.
        n_cpus: Number of processors.
    """

    bits: int = 64
    pae: bool = False
    encode: bool = False
    n_cpus: int = 2
    #: Page tables take pages from here on, structs from further on.
    next_table: int = 0x101000
    next_page: int = 0x200000
    ram: bytearray = field(default_factory=lambda: bytearray(BLOCKS[-1][0] + BLOCKS[-1][1]))
    #: Vaddr of each context, and the paddr behind each of its bytes' pages.
    contexts: list[int] = field(default_factory=list)
    pages: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        seeded = random.Random(self.bits)
        for start, size in BLOCKS:
            for paddr in range(start, start + size, 8 * PAGE):
                self.ram[paddr : paddr + PAGE] = seeded.randbytes(PAGE)
        self.root = self._table()
        self.kdbg = KERNEL[self.bits] + KDBG_AT
        self._image()
        self._shared_page()
        self._processors()
        self._block()

    # Memory

    def _table(self) -> int:
        paddr, self.next_table = self.next_table, self.next_table + PAGE
        self.ram[paddr : paddr + PAGE] = bytes(PAGE)
        return paddr

    def map(self, vaddr: int, paddr: int, root: int | None = None) -> None:
        """Map a page, in other tables than the kernel's where ``root`` is given."""
        if root is None:
            self.pages[vaddr] = paddr
        if self.bits == 64:
            levels, size = [(39, 9), (30, 9), (21, 9), (12, 9)], 8
        elif self.pae:
            levels, size = [(30, 2), (21, 9), (12, 9)], 8
        else:
            levels, size = [(22, 10), (12, 10)], 4
        table = self.root if root is None else root
        for shift, width in levels:
            at = table + (vaddr >> shift & (1 << width) - 1) * size
            entry = int.from_bytes(self.ram[at : at + size], "little")
            if shift == 12:
                entry = paddr | 0x3
            elif not entry:
                entry = self._table() | (0x1 if self.pae and shift == 30 else 0x3)
            self.ram[at : at + size] = entry.to_bytes(size, "little")
            table = entry & ~0xFFF

    def write(self, vaddr: int, data: bytes) -> None:
        """Write at a virtual address, mapping pages where none are: neighbours lie apart in RAM."""
        for at, part in self._parts(vaddr, data):
            page = at & ~0xFFF
            if page not in self.pages:
                self.map(page, self.next_page)
                self.ram[self.next_page : self.next_page + PAGE] = bytes(PAGE)
                self.next_page += 2 * PAGE
            paddr = self.paddr(at)
            self.ram[paddr : paddr + len(part)] = part

    @staticmethod
    def _parts(vaddr: int, data: bytes) -> Iterator[tuple[int, bytes]]:
        """``data`` at an address, as a piece for each page."""
        done = 0
        while done < len(data):
            n = min(len(data) - done, PAGE - (vaddr + done) % PAGE)
            yield vaddr + done, data[done : done + n]
            done += n

    def paddr(self, vaddr: int) -> int:
        """The paddr behind a virtual address."""
        return self.pages[vaddr & ~0xFFF] + (vaddr & 0xFFF)

    def word(self, value: int) -> bytes:
        """A pointer."""
        return (value & (1 << self.bits) - 1).to_bytes(self.bits // 8, "little")

    # What Windows has

    def _image(self) -> None:
        machine, magic = (0x8664, 0x20B) if self.bits == 64 else (0x14C, 0x10B)
        head = bytearray(PAGE)
        head[:2], head[0x3C:0x40] = b"MZ", struct.pack("<I", 0x80)
        head[0x80:0x86] = b"PE\0\0" + struct.pack("<H", machine)
        head[0x98:0x9A], head[0xD0:0xD4] = struct.pack("<H", magic), struct.pack("<I", IMAGE_SIZE)
        base = KERNEL[self.bits]
        for at in range(0, IMAGE_SIZE, PAGE):
            self.write(base + at, bytes(head) if at == 0 else bytes(PAGE))
        handler = base + HANDLER
        gate = struct.pack("<HHHH", handler & 0xFFFF, 0x10, 0x8E00, handler >> 16 & 0xFFFF)
        self.write(base + IDT_AT, gate + struct.pack("<II", handler >> 32, 0))

    def _shared_page(self) -> None:
        page = bytearray(PAGE)
        page[0x08:0x10], page[0x14:0x1C] = struct.pack("<Q", 600 * 10**7), struct.pack("<Q", 133_000_000_000_000_000)
        page[0x30 : 0x30 + 20] = "C:\\Windows".encode("utf-16-le")
        page[0x260:0x268] = struct.pack("<II", 0xF0000000 | BUILD, 3)
        page[0x26C:0x274], page[0x2D0:0x2D4] = struct.pack("<II", 10, 0), struct.pack("<I", 0x110)
        self.write(SHARED[self.bits], bytes(page))

    def _processors(self) -> None:
        base = KERNEL[self.bits]
        for i in range(self.n_cpus):
            prcb = base + 0x100000 + i * 0x10000
            context = base + 0x200000 + i * 0x10000 + PAGE - 512  # over the end of a page
            self.write(base + BLOCK_OF_PROCESSORS + i * self.bits // 8, self.word(prcb))
            self.write(prcb + PRCB_CONTEXT, self.word(context))
            self.write(context, b"\xee" * CONTEXT_SIZE[self.bits])
            self.contexts.append(context)

    def _block(self) -> None:
        base = KERNEL[self.bits]
        block = bytearray(KDBG_SIZE)
        sign = (1 << 64) - (1 << self.bits)
        block[:0x20] = struct.pack("<QQ4sIQ", self.kdbg | sign, self.kdbg | sign, b"KDBG", KDBG_SIZE, base | sign)
        for at, value in ((0x48, MODULES), (0x50, PROCESSES), (0x88, BUGCHECK), (0xC0, PFN_DATABASE)):
            block[at : at + 8] = struct.pack("<Q", base + value | sign)
        block[0x218:0x220] = struct.pack("<Q", base + BLOCK_OF_PROCESSORS | sign)
        block[0x338:0x33A] = struct.pack("<H", PRCB_CONTEXT)
        self.block = bytes(block)
        self.write(self.kdbg, encoded(self.block) if self.encode else self.block)
        self.write(base + BUGCHECK, bytes(5 * self.bits // 8))

    def shadow(self) -> dict[str, int]:
        """Have tables of user mode, which map the control block of processor 0 and no more; returns its registers."""
        prcb = KERNEL[64] + 0x100000
        self.write(prcb + 0x7000, struct.pack("<Q", self.root))
        root = self._table()
        self.map(prcb + 0x7000, self.pages[prcb + 0x7000], root)
        return {"cr3": root, "kernel_gs_base": prcb}

    # What a hypervisor sees

    def registers(self, i: int) -> dict[str, int]:
        """All registers that a context holds of CPU ``i``, by pydump's names."""
        seeded = random.Random(1000 + i)
        if self.bits == 64:
            names = "rax rbx rcx rdx rsi rdi rbp rsp r8 r9 r10 r11 r12 r13 r14 r15 rip".split()
            values = {name: seeded.getrandbits(64) for name in names} | {"rflags": 0x246}
        else:
            values = {name: seeded.getrandbits(32) for name in "eax ebx ecx edx esi edi ebp esp eip".split()}
            values["eflags"] = 0x246
        return values | {"cs": 0x10, "ss": 0x18, "ds": 0x2B, "es": 0x2B, "fs": 0x53, "gs": 0x2B}

    def system_registers(self, i: int) -> dict[str, int]:
        """The other ones that lead to the kernel's memory."""
        cr4 = 0x20 if self.bits == 64 or self.pae else 0
        return {"cr0": 0x80010001, "cr3": self.root, "cr4": cr4, "idt_base": KERNEL[self.bits] + IDT_AT}

    def context(self, i: int) -> bytes:
        """The context that QEMU writes for CPU ``i`` (WinContext64, WinContext32)."""
        values = self.registers(i)
        out = bytearray(CONTEXT_SIZE[self.bits])
        if self.bits == 64:
            struct.pack_into("<II", out, 0x30, 0x10001F, 0x1F80)
            struct.pack_into("<6HI", out, 0x38, *(values[n] for n in "cs ds es fs gs ss rflags".split()))
            struct.pack_into("<QQ", out, 0x68, 0xFFFF0FF0, 0x400)
            order = "rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15 rip"
            struct.pack_into("<17Q", out, 0x78, *(values[n] for n in order.split()))
            struct.pack_into("<I", out, 0x118, 0x1F80)
        else:
            struct.pack_into("<I", out, 0, 0x10017)
            struct.pack_into("<II", out, 0x14, 0xFFFF0FF0, 0x400)
            order = "gs fs es ds edi esi ebx edx ecx eax ebp eip cs eflags esp ss"
            struct.pack_into("<16I", out, 0x8C, *(values[n] for n in order.split()))
        return bytes(out)

    def header(self, *, kdbg: int | None = None, parameter: int = 0) -> bytes:
        """The header that the driver of virtio-win leaves for the hypervisor, filled with PAGE as Windows does it."""
        base = KERNEL[self.bits]
        size = 8192 if self.bits == 64 else 4096
        out = bytearray(b"PAGE" * (size // 4))
        kdbg = self.kdbg if kdbg is None else kdbg
        pages = [(start // PAGE, length // PAGE) for start, length in BLOCKS]
        total = sum(count for _, count in pages)
        if self.bits == 64:
            values = (self.root, 0, base + MODULES, base + PROCESSES, 0x8664, self.n_cpus)
            struct.pack_into("<4s4sII4QII", out, 0, b"PAGE", b"DU64", 15, BUILD, *values)
            struct.pack_into("<II4Q", out, 56, 0, 0, parameter, 0, 0, 0)
            struct.pack_into("<Q", out, 128, kdbg)
            struct.pack_into("<IIQ4Q", out, 136, len(pages), 0, total, *(n for run in pages for n in run))
            struct.pack_into("<IIQ", out, 3992, 1, 0, 0)
        else:
            values = (self.root, 0, base + MODULES, base + PROCESSES, 0x14C, self.n_cpus)
            struct.pack_into("<4s4sII4III", out, 0, b"PAGE", b"DUMP", 15, BUILD, *values)
            struct.pack_into("<5I", out, 40, 0, parameter, 0, 0, 0)
            out[92] = self.pae
            struct.pack_into("<I", out, 96, kdbg)
            struct.pack_into("<II4I", out, 100, len(pages), total, *(n for run in pages for n in run))
            struct.pack_into("<I", out, 3976, 1)
            struct.pack_into("<Q", out, 4000, 0)
        return bytes(out)

    def with_contexts(self, data: bytes | None = None) -> bytearray:
        """RAM as QEMU's dump of it is: with the contexts of all CPUs, and ``data`` instead of the debugger's block."""
        out = bytearray(self.ram)

        def put(vaddr: int, data: bytes) -> None:
            for at, part in self._parts(vaddr, data):
                out[self.paddr(at) : self.paddr(at) + len(part)] = part

        for i, context in enumerate(self.contexts):
            put(context, self.context(i))
        if data is not None:
            put(self.kdbg, data)
        return out

    # Dumps of it, by hand

    def memory(self, ram: bytes | None = None) -> bytes:
        """All of RAM, block after block."""
        return b"".join((ram or self.ram)[start : start + size] for start, size in BLOCKS)

    def full(self) -> bytes:
        """A full dump."""
        return self.header() + self.memory()

    def bitmap(self, present: list[tuple[int, int]], kind: int = 5, signature: bytes = b"SDMP") -> bytes:
        """A bitmap dump of the pages ``present``: first and one past the last."""
        header = bytearray(self.header())
        struct.pack_into("<I", header, 3992 if self.bits == 64 else 3976, kind)
        n_bits = BLOCKS[-1][0] // PAGE + BLOCKS[-1][1] // PAGE
        bits = bytearray(n_bits // 8)
        for start, end in present:
            for pfn in range(start, end):
                bits[pfn // 8] |= 1 << pfn % 8
        count = sum(end - start for start, end in present)
        first = -(-(len(header) + 56 + len(bits)) // PAGE) * PAGE
        summary = struct.pack("<4s4sI20xQQQ", signature, b"DUMP", 0, first, count, n_bits) + bits
        data = b"".join(self.ram[start * PAGE : end * PAGE] for start, end in present)
        return (bytes(header) + summary).ljust(first, b"\0") + data

    def ranges(self, present: list[tuple[int, int]], kind: int = 10) -> bytes:
        """A kernel or complete dump of the pages ``present``: first and one past the last."""
        header = bytearray(self.header())
        struct.pack_into("<I", header, 3992 if self.bits == 64 else 3976, kind)
        first = len(header) + PAGE
        count = sum(end - start for start, end in present)
        head = struct.pack("<I4s4sIQQIIQ", 0x40, b"RDMP", b"DUMP", 0, PAGE - 0x20, first, len(present), 0, count)
        table = b"".join(struct.pack("<QQ", start, end - start) for start, end in present)
        data = b"".join(self.ram[start * PAGE : end * PAGE] for start, end in present)
        return bytes(header) + (head + table).ljust(PAGE, b"\0") + data
