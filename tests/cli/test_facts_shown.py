"""What commands show of a guest whose facts are known in part, and what they check before they write."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pydump

Qemu = Callable[[str, str], Path]
Refuse = Callable[..., str]
Run = Callable[..., Any]


def test_info_shows_which_build_it_is_and_how_far_it_was_moved(qemu: Qemu, run: Run) -> None:
    elf = qemu("linux-x86_64", "elf")
    shown = run("info", elf).out
    text = run("info", elf, "--vmcoreinfo").out
    facts = dict(line.split("=", 1) for line in text.splitlines())
    assert f"build id      {facts['BUILD-ID']}\n" in shown
    assert f"KERNELOFFSET  0x{facts['KERNELOFFSET']}\n" in shown
    assert "kernel        Linux 6.1.0-50-amd64 #1 SMP PREEMPT_DYNAMIC Debian 6.1.176-1 (2026-07-02)\n" in shown
    assert "host name     (none)\n" in shown
    told = json.loads(run("info", elf, "--json").out)
    assert (told["build_id"], told["kernel_offset"]) == (facts["BUILD-ID"], int(facts["KERNELOFFSET"], 16))


@pytest.mark.parametrize("options", [(), ("--notes",), ("--json",), ("--notes", "--json")])
def test_info_of_an_unknown_architecture_shows_what_is_known(
    options: tuple[str, ...], tmp_path: Path, run: Run
) -> None:
    (tmp_path / "ram").write_bytes(bytes(8192))
    done = run("info", "raw:ram@1M", *options)
    assert done.code == 0
    assert done.err.count("\n") == 1
    assert "does not name the guest's architecture; name it with --arch; available: " in done.err
    if "--json" in options:
        told = json.loads(done.out)
        assert (told["arch"], told["byte_order"], told["memory"]) == (None, None, [{"paddr": 1 << 20, "size": 8192}])
    else:
        assert "unknown architecture\n" in done.out
        assert "0x000000100000 .. 0x000000102000  8.0 KiB" in done.out


def test_an_architecture_that_does_not_fit_is_still_refused(qemu: Qemu, refuse: Refuse) -> None:
    assert "the source is a guest of s390x" in refuse(2, "info", qemu("bare-s390x", "elf"), "--arch", "x86_64")


@pytest.mark.parametrize("how", [(), ("--hex",)])
def test_read_writes_nothing_where_a_part_of_the_range_is_missing(
    how: tuple[str, ...], tmp_path: Path, run: Run
) -> None:
    """The hole lies 3 MiB behind the first byte, which could have been written long before."""
    (tmp_path / "ram").write_bytes(b"x" * (4 << 20))
    for address, size in (("0", "5M"), ("3M", "1048577"), ("0", "16M")):
        done = run("read", "raw:ram@0,ram@16M", address, size, *how)
        assert (done.code, done.out) == (1, "")
        assert "there is no RAM" in done.err
    assert len(run("read", "raw:ram@0,ram@16M", "1M", "3M").raw) == 3 << 20


def test_read_of_virtual_memory_writes_nothing_where_a_page_is_not_mapped(qemu: Qemu, run: Run) -> None:
    """The kernel's text is mapped by 2 MiB pages; behind its image there is nothing for a while."""
    elf = qemu("linux-x86_64", "elf")
    with pydump.open(elf) as opened:
        info = opened.vmcoreinfo
        assert info is not None
        text = info.symbol("_stext")
        assert text is not None
        ends = [m.vaddr + m.size for m in opened.address_space().mappings() if m.vaddr <= text < m.vaddr + m.size]
    sound = run("read", elf, hex(text), "3M", "--vaddr")
    assert (sound.code, len(sound.raw)) == (0, 3 << 20)
    done = run("read", elf, hex(ends[0] - (3 << 20)), "4M", "--vaddr")
    assert (done.code, done.raw) == (1, b"")
    assert f"nothing is mapped at virtual address {ends[0]:#x}" in done.err


def test_the_hint_names_what_vmcoreinfo_lacks(qemu: Qemu, tmp_path: Path, refuse: Refuse) -> None:
    elf = qemu("linux-x86_64", "elf")
    with pydump.open(elf) as opened:
        assert opened.vmcoreinfo is not None
        lines = opened.vmcoreinfo.text.rstrip(b"\0").splitlines()
    for name in (b"_stext", b"init_top_pgt", b"swapper_pg_dir"):
        kept = [line for line in lines if b"SYMBOL(" + name not in line]
        (tmp_path / "ram").write_bytes(bytes(4096))
        pydump.dump(
            pydump.BytesImage(pydump_guest(b"\n".join(kept) + b"\n"), {0: bytes(8192)}),
            tmp_path / "in", format="elf", force=True, workers=1, sync=False,
        )  # fmt: skip
        said = refuse(2, "read", "in", "0xffffffff81000000", "16", "--vaddr")
        assert "too little is known" in said
        if name == b"_stext":
            assert "its VMCOREINFO lacks SYMBOL(_stext)" in said
            assert "registers" not in said


def pydump_guest(text: bytes) -> Any:
    from pydump.model.guest import Guest
    from pydump.model.memory import MemoryMap
    from pydump.model.vmcoreinfo import Vmcoreinfo

    return Guest(MemoryMap(()), arch="x86_64", byte_order="little", vmcoreinfo=Vmcoreinfo(text))


def filtered(data: bytes, leave_out: range) -> bytes:
    """A kdump of ours whose second bitmap, and page table, lack some pages: as a filter leaves it."""
    block, sub, bitmaps = struct.unpack_from("<iiI", data, 428)
    bitmap = (1 + sub) * block + bitmaps * block // 2
    first = (1 + sub + bitmaps) * block
    head = bytearray(
        data[:first].replace(b"PYDUMPIX", bytes(8))
    )  # the index counts the pages, and other tools write none
    for pfn in leave_out:
        head[bitmap + pfn // 8] &= ~(1 << pfn % 8)
    shift = 24 * len(leave_out)  # the pages lie behind the descriptors, without a gap
    table = b""
    for pfn in range(512):
        offset, rest = struct.unpack_from("<q16s", data, first + 24 * pfn)
        if pfn not in leave_out:
            table += struct.pack("<q16s", offset - shift, rest)
    return bytes(head) + table + data[first + 24 * 512 :]


def test_a_filtered_dump_is_the_same_guest_where_that_is_asked(tmp_path: Path, run: Run) -> None:
    (tmp_path / "ram").write_bytes(b"".join(bytes([i % 251 + 1]) * 4096 for i in range(512)))
    made = run("dump", "raw:ram@0", "full", "--arch", "riscv64", "--compression", "none", "--no-dedup")
    assert made.code == 0, made.err
    (tmp_path / "filtered").write_bytes(filtered((tmp_path / "full").read_bytes(), range(100, 140)))
    for sides in (("full", "filtered"), ("filtered", "full")):
        strict = run("compare", *sides)
        assert strict.code == 4
        assert "only full holds it" in strict.out
        loose = run("compare", *sides, "--ignore-excluded")
        assert (loose.code, loose.err) == (0, ""), loose.out
        assert "the same guest: 1.8 MiB" in loose.out
    wrong = bytearray((tmp_path / "ram").read_bytes())
    wrong[4096 * 200] ^= 1
    (tmp_path / "ram").write_bytes(wrong)
    assert run("compare", "raw:ram@0", "filtered", "--ignore-excluded").code == 4


def test_vmcoreinfo_is_found_in_memory_when_it_is_asked_for(qemu: Qemu, run: Run, tmp_path: Path) -> None:
    """A dump without a note of it, as QEMU's of most machines are; info alone does not read all of memory."""
    whole = qemu("linux-x86_64", "elf")
    assert run("dump", "-q", whole, "without", "--no-vmcoreinfo", "--no-sync").code == 0
    assert run("info", "--vmcoreinfo", "without").out == run("info", "--vmcoreinfo", whole).out != ""
    assert "none; --vmcoreinfo looks for one in memory\n" in run("info", "without").out
    done = run("info", "--vmcoreinfo", qemu("bare-x86_64", "elf"))
    assert (done.code, done.out) == (1, "")
    assert "has no VMCOREINFO" in done.err
