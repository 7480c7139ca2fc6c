"""ELF vmcores that are cut off or odd: what is there is read, what is not is said and counts as unreadable."""

from __future__ import annotations

import os
import random
import struct
import time
from pathlib import Path

import pytest

import pydump
from elf_files import KINDS, VMCOREINFO, Core, Load, pages, small
from pydump.errors import FormatError, PydumpError
from pydump.model.memory import Ranges

PAGE = 4096


def write(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


def memory(core: Core) -> dict[int, bytes]:
    """Guest memory by where it begins."""
    return {load.paddr: load.data for load in core.loads}


def check_cut(core: Core, whole: bytes, cut: int, path: Path) -> int:
    """Open the first ``cut`` bytes of ``whole``; returns how much guest memory could be read."""
    with pydump.open(write(path, whole[:cut])) as dump:
        lost = dump.image.unreadable()
        held = dump.stated.memory.ranges().subtract(lost)
        for start, end in held:
            (base,) = (base for base, data in memory(core).items() if base <= start < base + len(data))
            assert dump.read(start, end - start) == memory(core)[base][start - base : end - base]
        assert held.size == max(0, cut - core.data_at)
        assert bool(dump.image.warnings()) == (cut < len(whole))
        text = dump.vmcoreinfo
        if cut >= core.data_at:
            assert text is not None
            assert text.text == VMCOREINFO
        else:
            assert text is None
        return held.size


@pytest.mark.parametrize(("bits", "order"), KINDS)
@pytest.mark.parametrize("align", [4, 8])
def test_cut_elf_reads_what_is_there(bits: int, order: str, align: int, tmp_path: Path) -> None:
    core = small(bits, order, align)
    whole = core.build()
    cuts = [len(whole), len(whole) - 1, len(whole) - PAGE, core.data_at + 16 * PAGE, core.data_at + 5, core.data_at]
    for cut in cuts:
        check_cut(core, whole, cut, tmp_path / "in")


@pytest.mark.parametrize(("bits", "order"), KINDS)
def test_random_cuts(bits: int, order: str, tmp_path: Path) -> None:
    """Each cut of a small file is opened or refused in one line; what can be read is what it was."""
    core = small(bits, order)
    whole = core.build()
    chance = random.Random(bits + ord(order))
    table_end = core.ehsize + core.phsize
    for _ in range(int(os.environ.get("PYDUMP_CUTS", "25"))):
        cut = chance.randrange(chance.choice([core.data_at, len(whole)]))
        if cut >= table_end:
            check_cut(core, whole, cut, tmp_path / "in")
        else:
            with pytest.raises(PydumpError):
                pydump.open(write(tmp_path / "in", whole[:cut]))


@pytest.mark.parametrize(("bits", "order"), KINDS)
@pytest.mark.parametrize("format_", ["elf", "kdump"])
def test_dump_of_a_cut_elf_writes_the_rest(bits: int, order: str, format_: str, tmp_path: Path) -> None:
    core = small(bits, order)
    source = write(tmp_path / "in", core.build()[: core.data_at + 17 * PAGE])
    report = pydump.dump(source, str(tmp_path / "out"), format=format_, sync=False)
    assert not report.complete
    assert report.unreadable_size == 15 * PAGE
    assert any("61440 bytes of guest memory are lost" in line for line in report.warnings)
    with pydump.open(str(tmp_path / "out")) as dump:
        assert list(dump.image.unreadable()) == [((1 << 24) + PAGE, (1 << 24) + 16 * PAGE)]
        assert dump.read(0, 16 * PAGE) == pages(16)
        assert dump.read(1 << 24, PAGE) == pages(1, 2)


def test_verify_names_what_a_cut_elf_lacks(tmp_path: Path) -> None:
    core = small()
    report = pydump.verify(write(tmp_path / "in", core.build()[: core.data_at + 17 * PAGE]))
    assert "the file ends at" in report.faults[0]
    assert report.faults[1].startswith("paddr 0x1001000..0x1010000: ")
    assert not report.intact


def test_every_other_command_warns_of_a_cut_elf(tmp_path: Path) -> None:
    core = small()
    path = write(tmp_path / "in", core.build()[:-1])
    with pydump.open(path) as dump:
        assert "1 bytes of guest memory are lost" in dump.warnings[0]
    assert "are lost" in pydump.survey(path).warnings[0]
    both = pydump.compare(path, path).warnings
    assert both[0].endswith("are unreadable in both, and were not compared")
    assert [line.split(":")[0] for line in both[1:]] == [path, path]


def test_memory_that_another_segment_holds_is_not_lost(tmp_path: Path) -> None:
    """The kernel's image stands in the file twice, and the file ends within the second copy."""
    core = Core([Load(0, pages(4)), Load(8 * PAGE, pages(4, 2)), Load(PAGE, pages(4)[PAGE : 3 * PAGE])])
    with pydump.open(write(tmp_path / "in", core.build()[: -2 * PAGE])) as dump:
        assert not dump.image.unreadable()
        assert not dump.image.warnings()


class TestNotes:
    """What stands in a PT_NOTE."""

    @pytest.mark.parametrize(("bits", "order"), KINDS)
    @pytest.mark.parametrize("align", [4, 8])
    @pytest.mark.parametrize("kind", ["whole", "gap", "junk", "short junk", "past the end", "two segments"])
    def test_odd_notes_are_read_as_far_as_they_go(
        self, bits: int, order: str, align: int, kind: str, tmp_path: Path
    ) -> None:
        core = small(bits, order, align)
        cpu = core.note(b"CORE", 1, b"abc" * 5)
        info = core.note(b"VMCOREINFO", 0, VMCOREINFO)
        long = struct.pack(order + "III", 5, 1 << 20, 2) + b"CORE\0\0\0\0"
        segments = {
            "whole": [cpu + cpu + info],
            "gap": [cpu + bytes(360) + cpu + info],
            "junk": [cpu + cpu + info + bytes(16) + b"\x11" * 500],
            "short junk": [cpu + cpu + info + b"\x11" * 5],
            "past the end": [cpu + cpu + info + long],
            "two segments": [cpu, cpu + info + long],
        }
        core.notes = segments[kind]
        with pydump.open(write(tmp_path / "in", core.build())) as dump:
            assert [(note.name, note.type, note.desc) for note in dump.notes] == [("CORE", 1, b"abc" * 5)] * 2
            assert dump.vmcoreinfo is not None
            assert dump.vmcoreinfo.text == VMCOREINFO
            assert len(dump.image.warnings()) == (0 if kind == "whole" else 1)

    @pytest.mark.parametrize(("written", "said"), [(4, 8), (4, 0), (4, 4096)])
    def test_p_align_that_is_not_true_of_the_notes(self, written: int, said: int, tmp_path: Path) -> None:
        core = small(align=written)
        core.patches[core.ehsize + 48] = struct.pack("<Q", said)
        with pydump.open(write(tmp_path / "in", core.build())) as dump:
            assert [len(note.desc) for note in dump.notes] == [336]
            assert dump.vmcoreinfo is not None
            assert not dump.image.warnings()

    @pytest.mark.parametrize("first", [b"", bytes(1024), b"no entries", b"A=1\n" * (1 << 15)])
    def test_the_first_vmcoreinfo_that_has_entries_counts(self, first: bytes, tmp_path: Path) -> None:
        core = small()
        empty, real = core.note(b"VMCOREINFO", 0, first), core.note(b"VMCOREINFO", 0, VMCOREINFO)
        core.notes = [empty + real]
        with pydump.open(write(tmp_path / "in", core.build())) as dump:
            assert dump.vmcoreinfo is not None
            assert dump.vmcoreinfo.text == VMCOREINFO
            assert dump.image.warnings() == ("1 VMCOREINFO note has no entries, or too many",)

    def test_an_empty_vmcoreinfo_is_looked_for_in_memory(self, tmp_path: Path) -> None:
        core = small()
        core.notes = [core.note(b"VMCOREINFO", 0, bytes(100))]
        core.loads = [Load(0, VMCOREINFO.ljust(2 * PAGE, b"\0"))]
        pydump.dump(write(tmp_path / "in", core.build()), str(tmp_path / "out"), format="elf")
        with pydump.open(str(tmp_path / "out")) as dump:
            assert dump.vmcoreinfo is not None
            assert dump.vmcoreinfo.text == VMCOREINFO


class TestSegments:
    """What PT_LOADs say."""

    @pytest.mark.parametrize(("bits", "order"), KINDS)
    def test_only_pages_that_are_held_count_as_held(self, bits: int, order: str, tmp_path: Path) -> None:
        """One PT_LOAD leaves out a page that another one holds, and more that none does."""
        core = small(bits, order)
        core.loads = [Load(0, pages(1), 4 * PAGE), Load(2 * PAGE, pages(1, 2)), Load(1 << 20, pages(1, 3), 2 * PAGE)]
        with pydump.open(write(tmp_path / "in", core.build())) as dump:
            left_out = [(PAGE, 2 * PAGE), (3 * PAGE, 4 * PAGE), ((1 << 20) + PAGE, (1 << 20) + 2 * PAGE)]
            assert list(dump.image.excluded()) == left_out
            assert dump.stated.memory.size == 6 * PAGE
            assert dump.read(2 * PAGE, PAGE) == pages(1, 2)

    @pytest.mark.parametrize(("bits", "order"), KINDS)
    def test_memory_without_addresses_is_refused(self, bits: int, order: str, tmp_path: Path) -> None:
        core = small(bits, order)
        core.loads = [Load(0, pages(n, n), vaddr=n << 20) for n in (1, 4, 2)]
        with pytest.raises(FormatError, match="all of its 3 PT_LOADs have p_paddr 0"):
            pydump.open(write(tmp_path / "in", core.build()))

    def test_a_second_mapping_of_the_same_bytes_is_not_memory_without_addresses(self, tmp_path: Path) -> None:
        core = small()
        core.loads = [Load(0, pages(4)), Load(0, pages(4), vaddr=0xC << 60, same_as=0)]
        with pydump.open(write(tmp_path / "in", core.build())) as dump:
            assert dump.read(0, 4 * PAGE) == pages(4)

    @pytest.mark.parametrize("type_", [3, 6, 0x46494C45, 0x53494749])
    def test_the_core_of_a_process_is_refused(self, type_: int, tmp_path: Path) -> None:
        core = small()
        core.notes = [core.note(b"CORE", 1, bytes(336)) + core.note(b"CORE", type_, bytes(136))]
        with pytest.raises(FormatError, match="the core of a process"):
            pydump.open(write(tmp_path / "in", core.build()))

    def test_proc_kcore_is_not_the_core_of_a_process(self, tmp_path: Path) -> None:
        """Its notes. Source: fs/proc/kcore.c of the Linux kernel."""
        core = small()
        kcore = b"".join(core.note(b"CORE", type_, bytes(136)) for type_ in (1, 3, 4))
        core.notes = [kcore + core.note(b"VMCOREINFO", 0, VMCOREINFO)]
        pydump.open(write(tmp_path / "in", core.build())).close()

    @pytest.mark.parametrize("value", [(1 << 64) - 1, 1 << 63, 1 << 62, 1 << 48])
    @pytest.mark.parametrize(("field", "name"), [(32, "p_filesz"), (40, "p_memsz")])
    def test_a_size_that_cannot_be_true(self, field: int, name: str, value: int, tmp_path: Path) -> None:
        core = small()
        core.patches[core.ehsize + core.phsize + field] = struct.pack("<Q", value)
        with pydump.open(write(tmp_path / "in", core.build())) as dump:
            assert dump.read(0, 16 * PAGE) == pages(16)
            assert dump.read(1 << 24, 16 * PAGE) == pages(16, 2)
            warning = f"{name} of the PT_LOAD at paddr 0x0 is {value:#x}: its other size is taken"
            assert dump.image.warnings() == (warning,)

    def test_a_mapping_of_what_is_not_ram(self, tmp_path: Path) -> None:
        """QEMU gives it p_offset -1 and no bytes."""
        core = small()
        core.loads = [Load(0, pages(1)), Load(0xFEE00000, b"", PAGE)]
        core.patches[core.ehsize + 2 * core.phsize + 8] = b"\xff" * 8
        with pydump.open(write(tmp_path / "in", core.build())) as dump:
            assert list(dump.stated.memory.ranges()) == [(0, PAGE)]

    def test_ram_that_the_file_cannot_hold_is_said(self, tmp_path: Path) -> None:
        core = small()
        core.loads = [Load(0, pages(1)), Load(1 << 32, b"", 1 << 40)]
        with pydump.open(write(tmp_path / "in", core.build())) as dump:
            assert "claim 1099511631872 bytes of RAM" in dump.image.warnings()[0]


class TestManySegments:
    """PN_XNUM: e_phnum is 65535, and sh_info of the first section header says how many there are."""

    @pytest.mark.parametrize("count", [40_000_000, (1 << 32) - 1])
    def test_a_table_in_a_hole(self, count: int, tmp_path: Path) -> None:
        """4 KB of input with program headers for gigabytes."""
        head = b"\x7fELF\2\1\1" + bytes(9)
        head += struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 4096, 64, 0, 64, 56, 0xFFFF, 64, 1, 0)
        with (tmp_path / "in").open("wb") as file:
            file.write(head + struct.pack("<IIQQQQIIQQ", *[0] * 7, count, 0, 0))
            file.truncate(4096 + count * 56)
        began = time.process_time()
        with pytest.raises(FormatError, match=f"it claims {count} program headers"):
            pydump.open(str(tmp_path / "in"))
        assert time.process_time() - began < 2

    def test_a_table_that_is_mostly_hole(self, tmp_path: Path) -> None:
        count = 1 << 24
        head = b"\x7fELF\2\1\1" + bytes(9)
        head += struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 4096, 64, 0, 64, 56, 0xFFFF, 64, 1, 0)
        last = struct.pack("<IIQQQQQQ", 1, 7, 4096 + count * 56, 0, 0x5000, PAGE, PAGE, 0)
        with (tmp_path / "in").open("wb") as file:
            file.write(head + struct.pack("<IIQQQQIIQQ", *[0] * 7, count, 0, 0))
            file.seek(4096 + count * 56 - 56)
            file.write(last + pages(1))
        began = time.process_time()
        with pydump.open(str(tmp_path / "in")) as dump:
            assert dump.read(0x5000, PAGE) == pages(1)
        assert time.process_time() - began < 2

    def test_the_section_header_is_past_the_end(self, tmp_path: Path) -> None:
        core = small()
        core.patches[56] = b"\xff\xff"
        core.patches[40] = struct.pack("<Q", 1 << 40)
        with pydump.open(write(tmp_path / "in", core.build())) as dump:
            assert list(dump.stated.memory.ranges()) == [(0, 16 * PAGE), (1 << 24, (1 << 24) + 16 * PAGE)]
            assert "before the number of its program headers: the first 3 are read" in dump.image.warnings()[0]


def test_what_is_excluded_and_lost_do_not_overlap(tmp_path: Path) -> None:
    core = Core([Load(0, pages(2), 4 * PAGE), Load(8 * PAGE, pages(2, 2), 4 * PAGE)])
    with pydump.open(write(tmp_path / "in", core.build()[: -2 * PAGE - 1])) as dump:
        excluded, lost = dump.image.excluded(), dump.image.unreadable()
        assert list(lost) == [(2 * PAGE - 1, 2 * PAGE), (8 * PAGE, 10 * PAGE)]
        assert excluded == Ranges.of([(2 * PAGE, 4 * PAGE), (10 * PAGE, 12 * PAGE)])
