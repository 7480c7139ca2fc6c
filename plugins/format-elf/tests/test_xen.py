"""Cores of Xen guests: pages by their frame numbers, in any order, and the registers of HVM guests."""

from __future__ import annotations

import contextlib
import os
import random
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

import pydump
from elf_files import pages
from pydump.errors import FormatError, PydumpError
from pydump.model.memory import Ranges

PAGE = 4096
HVM, PV = 0xF00FEBEE, 0xF00FEBED
PFNS = [0, 1, 2, 0x100, 0x101, 0x80000, 0x100000]
#: Source: Xen, xen/include/public/arch-x86/xen-x86_64.h, struct cpu_user_regs.
USER = "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi".split()


def context(seed: int, cs: int = 0x10) -> tuple[bytes, dict[str, int]]:
    """Struct vcpu_guest_context of arch-x86/xen.h, and the registers in it."""
    chance = random.Random(seed)
    values = {name: chance.getrandbits(64) for name in (*USER, "rip", "rflags", "rsp", "fs_base")}
    values |= {f"cr{i}": chance.getrandbits(64) for i in range(5)} | {
        "cs": cs,
        "ss": 0x18,
        "es": 1,
        "ds": 2,
        "fs": 3,
        "gs": 4,
    }
    kernel, user = chance.getrandbits(64), chance.getrandbits(64)
    in_user_mode = cs & 3 != 0
    values |= {"gs_base": user if in_user_mode else kernel, "kernel_gs_base": kernel if in_user_mode else user}
    regs = struct.pack("<15QII", *(values[name] for name in USER), 1, 2) + struct.pack("<Q", values["rip"])
    regs += struct.pack("<HHB3x", cs, 0, 0) + struct.pack("<QQ", values["rflags"], values["rsp"])
    regs += b"".join(struct.pack("<H6x", values[name]) for name in ("ss", "es", "ds", "fs", "gs"))
    data = bytes(512) + struct.pack("<Q", 1) + regs + bytes(256 * 16) + bytes(16) + bytes(17 * 8) + bytes(16)
    data += struct.pack("<8Q", *(values[f"cr{i}"] for i in range(5)), 0, 0, 0) + bytes(64) + bytes(24) + bytes(8)
    data += struct.pack("<3Q", values["fs_base"], kernel, user)
    assert len(data) == 5168
    return data, values


def core(pfns: Sequence[int], data: bytes, contexts: Sequence[bytes] = (), magic: int = HVM, count: int = 0) -> bytes:
    """Source: docs/misc/dump-core-format.txt: section headers behind the ELF header, then notes, then the rest."""
    header = struct.pack("<4Q", magic, len(contexts), count or len(pfns), PAGE)
    notes = b"".join(
        struct.pack("<III", 4, len(desc), 0x2000000 + i) + b"Xen\0" + desc
        for i, desc in enumerate((b"", header, bytes(1280), struct.pack("<Q", 1)))
    )
    if magic == PV:
        places = b".xen_p2m", b"".join(struct.pack("<QQ", pfn, pfn ^ 0xABC000) for pfn in pfns)
    else:
        places = b".xen_pfn", struct.pack(f"<{len(pfns)}Q", *pfns)
    parts = [(b".shstrtab", 3, b""), (b".note.Xen", 7, notes), (b".xen_prstatus", 1, b"".join(contexts))]
    parts += [(b".xen_shared_info", 1, bytes(PAGE)), (places[0], 1, places[1]), (b".xen_pages", 1, data)]
    strings = b"\0" + b"\0".join(name for name, _, _ in parts) + b"\0"
    parts[0] = (b".shstrtab", 3, strings)
    table, body, at = bytes(64), b"", 64 + 64 * (len(parts) + 1)
    for name, type_, content in parts:
        if name == b".xen_pages":
            padding = -at % PAGE
            body, at = body + bytes(padding), at + padding
        table += struct.pack(
            "<IIQQQQIIQQ", strings.index(b"\0" + name + b"\0") + 1, type_, 0, 0, at, len(content), 0, 0, 0, 0
        )
        body, at = body + content, at + len(content)
    ident = b"\x7fELF\2\1\1" + bytes(9)
    head = ident + struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 0, 64, 0, 64, 56, 0, 64, len(parts) + 1, 1)
    return head + table + body


def memory(n: int) -> bytes:
    return pages(n, 7)


def opened(path: Path, data: bytes) -> pydump.Dump:
    path.write_bytes(data)
    return pydump.open(path)


@pytest.mark.parametrize("magic", [HVM, PV])
@pytest.mark.parametrize("order", ["ascending", "shuffled"])
def test_pages_by_their_frame_numbers(magic: int, order: str, tmp_path: Path) -> None:
    pfns = list(PFNS)
    if order == "shuffled":
        random.Random(1).shuffle(pfns)
    with opened(tmp_path / "in", core(pfns, memory(len(pfns)), magic=magic)) as dump:
        assert dump.guest.memory.ranges() == Ranges.of((pfn * PAGE, pfn * PAGE + PAGE) for pfn in pfns)
        for i, pfn in enumerate(pfns):
            assert dump.read(pfn * PAGE, PAGE) == memory(len(pfns))[i * PAGE : (i + 1) * PAGE]
        assert any("machine addresses" in line for line in dump.image.warnings()) == (magic == PV)
        assert not dump.image.more_lost()


def test_registers_of_an_hvm_guest_become_notes(tmp_path: Path) -> None:
    contexts = [context(1), context(2, cs=0x33)]
    (tmp_path / "in").write_bytes(core(PFNS, memory(len(PFNS)), [data for data, _ in contexts]))
    pydump.dump(tmp_path / "in", tmp_path / "out", format="elf")
    for path in (tmp_path / "in", tmp_path / "out"):
        with pydump.open(path) as dump:
            assert dump.guest.arch == "x86_64"
            for found, (_, values) in zip(dump.cpus, contexts, strict=True):
                assert {name: found.registers[name] for name in values} == values


def test_a_page_without_a_place_is_not_read(tmp_path: Path) -> None:
    """Xen marks it with a frame number of all ones."""
    with opened(tmp_path / "in", core([0, (1 << 64) - 1, 5], memory(3), magic=PV)) as dump:
        assert dump.guest.memory.ranges() == Ranges.of([(0, PAGE), (5 * PAGE, 6 * PAGE)])
        assert dump.read(5 * PAGE, PAGE) == memory(3)[2 * PAGE :]


@pytest.mark.parametrize("cut", [1, PAGE, 3 * PAGE + 7, 7 * PAGE])
def test_a_cut_core_reads_what_is_there(cut: int, tmp_path: Path) -> None:
    with opened(tmp_path / "in", core(PFNS, memory(len(PFNS)))[:-cut]) as dump:
        assert dump.image.unreadable().size == cut
        for start, end in dump.stated.memory.ranges().subtract(dump.image.unreadable()):
            i = max(i for i, pfn in enumerate(PFNS) if pfn * PAGE <= start)
            at = i * PAGE + start - PFNS[i] * PAGE
            assert dump.read(start, end - start) == memory(len(PFNS))[at : at + end - start]
        assert any("cut off" in line for line in dump.image.warnings())


def test_more_pages_than_have_a_place(tmp_path: Path) -> None:
    with opened(tmp_path / "in", core(PFNS, memory(len(PFNS)), count=1000)) as dump:
        assert any("1000 pages are stated, and the places of 7" in line for line in dump.image.warnings())
        assert dump.image.more_lost()


@pytest.mark.parametrize(
    ("at", "value"), [(0, b"\0" * 8), (16, b"\xff" * 8), (24, b"\0" * 8), (24, b"\x01\x10" + bytes(6))]
)
def test_a_header_that_cannot_be_is_refused(at: int, value: bytes, tmp_path: Path) -> None:
    data = bytearray(core(PFNS, memory(len(PFNS))))
    where = data.index(struct.pack("<Q", HVM)) + at
    data[where : where + 8] = value
    if at == 0:  # the magic only tells whether it is paravirtualized
        opened(tmp_path / "in", bytes(data)).close()
        return
    with pytest.raises(FormatError, match="are stated"):
        opened(tmp_path / "in", bytes(data))


def test_random_damage_gives_memory_or_an_error(tmp_path: Path) -> None:
    data = core(PFNS, memory(len(PFNS)), [context(1)[0]])
    chance = random.Random(1)
    for _ in range(int(os.environ.get("PYDUMP_CUTS", "50"))):
        broken = bytearray(data)
        for _ in range(3):
            broken[chance.randrange(64 * 8 + 1600)] = chance.randrange(256)
        with contextlib.suppress(PydumpError), opened(tmp_path / "in", bytes(broken)) as dump:
            for start, end in dump.stated.memory.ranges().subtract(dump.image.unreadable()):
                dump.read(start, min(end - start, 1 << 16))
