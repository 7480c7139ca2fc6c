"""Windows crash dumps made by hand: what they hold, whole and damaged."""

from __future__ import annotations

import functools
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pydump
from pydump.errors import FormatError, PlanError, PydumpError
from pydump.model.memory import Ranges
from windows_guest import BLOCKS, BUILD, PAGE, WindowsGuest

#: Pages of the RAM of :class:`WindowsGuest`: first and one past the last.
RAM = [(start // PAGE, (start + size) // PAGE) for start, size in BLOCKS]
GUESTS = ((64, False), (32, False), (32, True))
SOME = [(0, 3), (7, 8), (256, 1030), (1034, 1280)]


@functools.cache
def made(bits: int, pae: bool) -> WindowsGuest:
    """One of the guests. Do not write to it."""
    return WindowsGuest(bits, pae)


def paddrs(pages: list[tuple[int, int]]) -> Ranges:
    return Ranges.of((start * PAGE, end * PAGE) for start, end in pages)


def check(
    path: Path, data: bytes, guest: WindowsGuest, held: list[tuple[int, int]], ram: list[tuple[int, int]]
) -> None:
    """Open ``data`` and compare all that it holds with the guest's memory."""
    path.write_bytes(data)
    with pydump.open(str(path)) as dump:
        assert dump.stated.memory.ranges() == paddrs(ram)
        assert dump.image.unreadable() == Ranges.empty()
        assert dump.image.excluded() == paddrs(ram).subtract(paddrs(held))
        assert dump.image.warnings() == ()
        runs = [(start * PAGE + 5, end * PAGE) for start, end in held]
        buffer = bytearray(sum(end - start for start, end in runs))
        dump.image.read_runs(runs, memoryview(buffer))
        assert buffer == b"".join(guest.ram[start:end] for start, end in runs)
        for start, end in runs:
            assert dump.read(start, end - start) == guest.ram[start:end]


@pytest.mark.parametrize("kind", GUESTS)
def test_full_dump_holds_all_of_memory(kind: tuple[int, bool], tmp_path: Path) -> None:
    guest = made(*kind)
    check(tmp_path / "in", guest.full(), guest, RAM, RAM)


@pytest.mark.parametrize("kind", GUESTS)
@pytest.mark.parametrize(("type_", "signature"), [(2, b"SDMP"), (5, b"SDMP"), (6, b"FDMP")])
def test_bitmap_dump_holds_the_pages_of_its_bitmap(
    kind: tuple[int, bool], type_: int, signature: bytes, tmp_path: Path
) -> None:
    guest = made(*kind)
    check(tmp_path / "in", guest.bitmap(RAM, type_, signature), guest, RAM, RAM)
    check(tmp_path / "in", guest.bitmap(SOME, type_, signature), guest, SOME, RAM)


@pytest.mark.parametrize("type_", [8, 9, 10])
def test_kernel_and_complete_dumps_hold_the_pages_of_their_lists(type_: int, tmp_path: Path) -> None:
    guest = made(64, False)
    check(tmp_path / "in", guest.ranges([(1, 160), RAM[1]], type_), guest, [(1, 160), RAM[1]], RAM)
    check(tmp_path / "in", guest.ranges(SOME[1:], type_), guest, SOME[1:], RAM)


@pytest.mark.parametrize("kind", GUESTS)
def test_facts_come_from_the_header(kind: tuple[int, bool], tmp_path: Path) -> None:
    guest = made(*kind)
    (tmp_path / "in").write_bytes(guest.full())
    with pydump.open(str(tmp_path / "in")) as dump:
        known = dump.known
        assert (known.arch, known.elf_class, known.page_size) == (
            "x86_64" if guest.bits == 64 else "i386",
            guest.bits,
            PAGE,
        )
        assert (known.utsname.sysname, known.utsname.release) == ("Windows", f"build {BUILD}")
        assert known.windows is not None
        assert known.windows.directory_table_base == guest.root
        assert known.windows.pae == guest.pae
        assert known.windows.n_cpus == 2


@pytest.mark.parametrize("kind", GUESTS)
def test_registers_come_from_the_contexts_in_memory(kind: tuple[int, bool], tmp_path: Path) -> None:
    guest = made(*kind)
    (tmp_path / "in").write_bytes(guest.header() + guest.memory(bytes(guest.with_contexts())))
    with pydump.open(str(tmp_path / "in")) as dump:
        assert [cpu.index for cpu in dump.cpus] == [0, 1]
        for cpu in dump.cpus:
            wanted = guest.registers(cpu.index)
            assert {name: cpu.registers[name] for name in wanted} == wanted


@pytest.mark.parametrize("bits", [64, 32])
def test_registers_of_the_header_are_those_of_cpu_0(bits: int, tmp_path: Path) -> None:
    guest = made(bits, False)
    header = bytearray(guest.header(kdbg=0))
    at = {64: 840, 32: 800}[bits]
    header[at : at + len(guest.context(1))] = guest.context(1)
    (tmp_path / "in").write_bytes(header + guest.memory())
    with pydump.open(str(tmp_path / "in")) as dump:
        (cpu,) = dump.cpus
        wanted = guest.registers(1)
        assert {name: cpu.registers[name] for name in wanted} == wanted


def test_context_that_windows_has_not_filled_holds_no_registers(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(made(64, False).full())
    with pydump.open(str(tmp_path / "in")) as dump:
        assert dump.cpus == ()


@pytest.mark.parametrize("form", ["full", "bitmap", "ranges"])
def test_cut_dump_reads_what_is_there(form: str, tmp_path: Path) -> None:
    guest = made(64, False)
    held = [(1, 160), RAM[1]] if form == "ranges" else RAM
    whole = guest.full() if form == "full" else guest.bitmap(RAM) if form == "bitmap" else guest.ranges(held)
    size = sum(end - start for start, end in held) * PAGE
    pages = [pfn for start, end in held for pfn in range(start, end)]
    for there in (len(pages) * PAGE - 1, 900 * PAGE, 100 * PAGE + 1, 0):
        (tmp_path / "in").write_bytes(whole[: len(whole) - size + there])
        with pydump.open(str(tmp_path / "in")) as dump:
            kept = pages[: there // PAGE]
            lost = Ranges.of((pfn * PAGE, pfn * PAGE + PAGE) for pfn in pages[there // PAGE :])
            assert dump.image.unreadable().page_aligned(PAGE) == lost
            assert dump.image.unreadable().size == size - there
            assert dump.image.warnings()
            for pfn in kept[:: max(1, len(kept) // 20)]:
                assert dump.read(pfn * PAGE, PAGE) == guest.ram[pfn * PAGE : pfn * PAGE + PAGE]
    out = tmp_path / "out"
    (tmp_path / "in").write_bytes(whole[:-PAGE])
    report = pydump.dump(str(tmp_path / "in"), str(out), format="elf", sync=False, workers=1)
    assert report.unreadable_size == PAGE
    assert not report.complete


def test_dump_cut_within_its_bitmap_loses_the_pages_that_it_does_not_name(tmp_path: Path) -> None:
    guest = made(64, False)
    (tmp_path / "in").write_bytes(guest.bitmap(RAM)[: 8192 + 56 + 64])
    with pydump.open(str(tmp_path / "in")) as dump:
        assert dump.image.unreadable() == paddrs(RAM)
        assert any("within the bitmap" in line for line in dump.image.warnings())


@pytest.mark.parametrize("pfn", [0, 159, 700])
def test_a_flipped_bit_of_the_bitmap_does_not_move_pages(pfn: int, tmp_path: Path) -> None:
    guest, at = made(64, False), 8192 + 56
    for pages in (RAM, SOME):
        data = bytearray(guest.bitmap(pages))
        data[at + pfn // 8] ^= 1 << pfn % 8
        (tmp_path / "in").write_bytes(data)
        with pydump.open(str(tmp_path / "in")) as dump:
            lost = dump.image.unreadable()
            assert any("the bitmap is damaged" in line for line in dump.image.warnings())
            if pages is RAM:
                assert not lost
                for start, end in paddrs(RAM):
                    assert dump.read(start, end - start) == guest.ram[start:end]
            else:
                assert paddrs(RAM).subtract(dump.image.excluded()).subtract(lost) == Ranges.empty()


@pytest.mark.parametrize("size", [4, 8, 8191, 8192 + 55])
def test_dump_cut_within_its_headers_is_refused(size: int, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(made(64, False).bitmap(RAM)[:size])
    with pytest.raises(PydumpError):
        pydump.open(str(tmp_path / "in"))


def damaged(offset: int, value: int, size: int, data: bytes) -> bytes:
    return data[:offset] + value.to_bytes(size, "little") + data[offset + size :]


#: Offset, value and size of a number in a full dump that cannot be true, and the pages that can be read all the same.
ABSURD_RUNS = {
    "more runs than have room": (136, 2**32 - 2, 4, RAM),
    "a run past all addresses": (152 + 16, 1 << 60, 8, RAM[:1]),
    "a run of more pages than there are": (152 + 24, (1 << 64) - 1, 8, RAM[:1]),
    "a first run without end": (152 + 8, 1 << 52, 8, []),
    "runs that overlap": (152 + 16, 159, 8, [(0, 160), (160, 159 + 1024)]),
}


@pytest.mark.parametrize("case", ABSURD_RUNS)
def test_absurd_run_costs_what_follows_it_and_no_more(case: str, tmp_path: Path) -> None:
    offset, value, size, held = ABSURD_RUNS[case]
    (tmp_path / "in").write_bytes(damaged(offset, value, size, made(64, False).full()))
    began = time.monotonic()
    with pydump.open(str(tmp_path / "in")) as dump:
        assert dump.image.warnings()
        ram = dump.stated.memory.ranges()
        assert ram.subtract(dump.image.unreadable()).subtract(dump.image.excluded()) == paddrs(held)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("offset", "value"),
    [(0x20, 0), (0x20, 1 << 63), (0x28, 7), (0x30, (1 << 64) - 1), (0x30, 1 << 40), (0x30, 512)],
    ids=["first page in the header", "first page past all files", "wrong count", "bits", "many bits", "few bits"],
)
def test_absurd_bitmap_is_refused_or_said(offset: int, value: int, tmp_path: Path) -> None:
    guest = made(64, False)
    (tmp_path / "in").write_bytes(damaged(8192 + offset, value, 8, guest.bitmap(RAM)))
    try:
        with pydump.open(str(tmp_path / "in")) as dump:
            assert dump.image.warnings()
    except FormatError:
        assert value == 0


@pytest.mark.parametrize("type_", [3, 4, 7, 99])
def test_dump_without_memory_is_refused(type_: int, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(damaged(3992, type_, 4, made(64, False).full()))
    with pytest.raises(FormatError):
        pydump.open(str(tmp_path / "in"))


def test_page_tables_and_pointers_that_lead_nowhere_cost_the_registers_only(tmp_path: Path) -> None:
    guest = WindowsGuest(64)
    ram = bytearray(guest.with_contexts())
    place = guest.paddr(guest.kdbg + 0x218)
    ram[place : place + 8] = struct.pack("<Q", 0xFFFF_8000_DEAD_0000)
    for header in (guest.header(), damaged(16, 0x30000, 8, guest.header()), damaged(52, 2**32 - 1, 4, guest.header())):
        (tmp_path / "in").write_bytes(header + guest.memory(bytes(ram)))
        with pydump.open(str(tmp_path / "in")) as dump:
            assert dump.cpus == ()
            assert dump.read(0, PAGE) == bytes(ram[:PAGE])


@pytest.mark.parametrize(
    "ask",
    [
        lambda dump: list(dump.log()),
        lambda dump: dump.symbols(),
        lambda dump: dump.drgn(),
        lambda dump: dump.classes(),
        lambda dump: pydump.dump(dump.image, "out", dump_level=31, dry_run=True),
        lambda dump: pydump.dump(dump.image, "out", ram_only=True, dry_run=True),
    ],
    ids=["log", "symbols", "drgn", "classes", "dump level 31", "RAM only"],
)
def test_what_linux_alone_has_is_refused_by_the_name_of_windows(ask: Callable[[Any], Any], tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(made(64, False).full())
    with pydump.open(str(tmp_path / "in")) as dump, pytest.raises(PlanError, match="the guest runs Windows") as error:
        ask(dump)
    assert "VMCOREINFO" not in str(error.value)


def test_sizes_of_a_windows_guest_name_windows(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(made(64, False).full())
    (warning,) = (line for line in pydump.sizes(str(tmp_path / "in")).warnings if line.startswith("levels 0 and 1"))
    assert "the guest runs Windows" in warning
    assert "VMCOREINFO" not in warning


@pytest.mark.parametrize(("name", "format_"), [("out.dmp", "windmp"), ("out.DMP", "windmp"), ("out", "kdump")])
def test_output_that_ends_as_a_windows_dump_is_one_of_a_windows_guest(name: str, format_: str, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(made(64, False).full())
    report = pydump.dump(str(tmp_path / "in"), str(tmp_path / name), dry_run=True)
    assert (report.format, report.remarks) == (format_, ())
    elf = tmp_path / "in.elf"  # its note says that it runs Windows
    pydump.dump(str(tmp_path / "in"), str(elf), sync=False, workers=1)
    assert pydump.dump(str(elf), str(tmp_path / name), dry_run=True).format == format_
