"""ELF vmcores, read back by pyelftools and compared with the RAM that QEMU dumped."""

from __future__ import annotations

import re
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile

import pydump
from pydump.builtin.files import FileBacking
from pydump.errors import PydumpError
from pydump.model.guest import Guest, Section
from pydump.model.memory import MemoryMap, Ranges
from pydump.model.vmcoreinfo import Vmcoreinfo

Qemu = Callable[[str, str], Path]
DATA = Path(__file__).parents[3] / "tests/data/qemu"


@contextmanager
def elf(path: Path) -> Iterator[ELFFile]:
    with path.open("rb") as file:
        yield ELFFile(file)


def loads(file: ELFFile) -> list[Any]:
    return [segment.header for segment in file.iter_segments("PT_LOAD")]


@pytest.mark.parametrize(
    "guest", ["bare-arm", "bare-s390x", "bare-riscv64", "nano-x86_64", "linux-x86_64", "bare-i386"]
)
def test_the_layout_that_every_reader_takes(guest: str, qemu: Qemu, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pydump.dump(str(qemu(guest, "elf")), str(out), format="elf")
    with elf(out) as ours, elf(qemu(guest, "elf")) as theirs:
        header = ours.header
        size = {32: (52, 32), 64: (64, 56)}[ours.elfclass]
        assert (header.e_ehsize, header.e_phentsize) == size
        assert header.e_phoff == size[0]  # right after the ELF header: makedumpfile looks nowhere else
        assert (header.e_shoff, header.e_shnum, header.e_shstrndx) == (0, 0, 0)
        assert (ours.elfclass, ours.little_endian) == (theirs.elfclass, theirs.little_endian)
        assert (header.e_machine, header.e_type, header.e_version) == (theirs.header.e_machine, "ET_CORE", "EV_CURRENT")
        first, *rest = ours.iter_segments()
        assert first.header.p_type == "PT_NOTE"
        assert {segment.header.p_type for segment in rest} == {"PT_LOAD"}
        assert {segment.header.p_align for segment in ours.iter_segments()} == {0}
        fields = ("p_paddr", "p_filesz", "p_memsz")
        assert [[h[f] for f in fields] for h in loads(ours)] == [[h[f] for f in fields] for h in loads(theirs)]
        for ours_segment, theirs_segment in zip(
            ours.iter_segments("PT_LOAD"), theirs.iter_segments("PT_LOAD"), strict=True
        ):
            assert ours_segment.data() == theirs_segment.data()


def test_vmcoreinfo_is_the_last_note(qemu: Qemu, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pydump.dump(str(qemu("linux-x86_64", "elf")), str(out), format="elf")
    with elf(out) as file:
        notes = list(next(file.iter_segments("PT_NOTE")).iter_notes())
        assert [note.n_name for note in notes] == ["CORE", "CORE", "QEMU", "QEMU", "VMCOREINFO"]
        assert b"OSRELEASE=6.1.0-50-amd64\n" in notes[-1].n_descdata


@pytest.mark.parametrize("guest", ["nano-x86_64", "bare-arm", "bare-s390x", "bare-riscv64"])
def test_memory_is_the_ram_behind_the_guest(guest: str, qemu: Qemu) -> None:
    """Against the file behind the memory backend, through QEMU's own account of where it lies."""
    ram = qemu(guest, "ram.raw").read_bytes()
    pattern = re.compile(
        r"  ([0-9a-f]{16})-([0-9a-f]{16}) \(prio \d+, ram\): (?:ram|mach-virt\.ram)(?: @([0-9a-f]{16}))?$"
    )
    view = (DATA / guest / "hmp-mtree.txt").read_text().split("FlatView")
    lines = next(part for part in view if ' AS "memory"' in part).splitlines()
    places = [tuple(int(x or "0", 16) for x in m.groups()) for line in lines if (m := pattern.match(line))]
    assert places
    for name in ("elf", "kdump-zlib"):
        with pydump.open(str(qemu(guest, name))) as dump:
            for start, last, offset in places:
                assert dump.read(start, last + 1 - start) == ram[offset : offset + last + 1 - start]


@pytest.mark.parametrize("guest", ["nano-x86_64", "mini-x86_64-smp2"])
def test_qemus_paging_dump_is_the_same_memory(guest: str, qemu: Qemu) -> None:
    """One segment for each mapping, aliases and all, is read as the RAM that is behind them."""
    with pydump.open(str(qemu(guest, "elf"))) as plain, pydump.open(str(qemu(guest, "elf-paging"))) as paging:
        # QEMU cuts a mapping at the end of the first RAM block that it meets.
        held = paging.stated.memory.ranges().subtract(paging.image.excluded())
        assert held
        for start, end in held:
            assert paging.read(start, end - start) == plain.read(start, end - start)


def core(*loads: tuple[int, bytes, int]) -> bytes:
    """A little-endian x86_64 core with PT_LOADs of paddr, contents and p_memsz, made by hand."""
    at = 64 + 56 * len(loads)
    head = b"\x7fELF\2\1\1" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 64, 0, 0, 64, 56, len(loads), 0, 0, 0)
    for paddr, data, memsz in loads:
        head += struct.pack("<IIQQQQQQ", 1, 0, at, 0, paddr, len(data), memsz, 0)
        at += len(data)
    return head + b"".join(data for _, data, _ in loads)


A, B = b"a" * 4096, b"b" * 4096


@pytest.mark.parametrize(
    ("loads", "left_out"),
    [
        # The second is the kernel's image once more, and what the first left out is RAM all the same.
        ([(0, A * 3, 0x8000), (0x1000, A, 0x1000), (0x8000, B, 0x2000)], [(0x3000, 0x8000), (0x9000, 0xA000)]),
        # Both leave out the same.
        ([(0, A * 2, 0x4000), (0x1000, A, 0x3000)], [(0x2000, 0x4000)]),
        # The second has a page that the first leaves out.
        ([(0, A, 0x4000), (0x2000, B, 0x1000)], [(0x1000, 0x2000), (0x3000, 0x4000)]),
    ],
)
def test_what_segments_that_overlap_leave_out(
    loads: list[tuple[int, bytes, int]], left_out: list[tuple[int, int]], tmp_path: Path
) -> None:
    (tmp_path / "in").write_bytes(core(*loads))
    with pydump.open(str(tmp_path / "in")) as dump:
        assert list(dump.image.excluded()) == left_out
        held = Ranges.of((paddr, paddr + len(data)) for paddr, data, _ in loads)
        assert dump.stated.memory.ranges() == held.union(Ranges.of(left_out))


class FilteredKernel(pydump.BytesImage):
    """Leaves out a page before the kernel's image and what follows it."""

    def excluded(self) -> Ranges:
        return Ranges.of([(0x80100000, 0x80101000), (0x80A00000, 0x81000000)])


def test_a_filtered_guest_with_a_segment_for_its_kernel(tmp_path: Path) -> None:
    text = (DATA.parent / "vmcoreinfo" / "riscv64.txt").read_bytes()
    guest = Guest(MemoryMap(), arch="riscv64", vmcoreinfo=Vmcoreinfo(text))
    source = FilteredKernel(guest, {0x80000000: b"k" * (16 << 20), 0x90000000: B})
    pydump.dump(source, str(tmp_path / "out"), format="elf")
    with elf(tmp_path / "out") as file:
        paddrs = [load.p_paddr for load in loads(file)]
        assert len(paddrs) > len(set(paddrs))  # there is one
    with pydump.open(str(tmp_path / "out")) as back:
        assert back.image.excluded() == source.excluded()


def many_blocks(n: int, size: int = 4096) -> pydump.BytesImage:
    return pydump.BytesImage(
        Guest(MemoryMap(), arch="x86_64"), {i * 8192: i.to_bytes(8, "little") * (size // 8) for i in range(n)}
    )


@pytest.mark.parametrize("n", [65533, 65534, 66000])
def test_more_segments_than_e_phnum_can_count(n: int, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pydump.dump(many_blocks(n, 64), str(out), format="elf", sync=False)
    with elf(out) as file:
        assert file.num_segments() == n + 1
        assert file.header.e_phnum == min(n + 1, 0xFFFF)
        assert file.header.e_shnum == (1 if n + 1 >= 0xFFFF else 0)
        for i in (0, 1, n // 2, n - 1):
            segment = file.get_segment(i + 1)
            assert segment.header.p_paddr == i * 8192
            assert segment.data() == i.to_bytes(8, "little") * 8
    with pydump.open(str(out)) as back:
        assert len(back.stated.memory) == n
        assert back.read((n - 1) * 8192, 8) == (n - 1).to_bytes(8, "little")


class Filtered(pydump.BytesImage):
    """Leaves out the second and the last page of each block."""

    def excluded(self) -> Ranges:
        return Ranges.of(
            r for b in self.guest().memory for r in ((b.paddr + 4096, b.paddr + 8192), (b.end - 4096, b.end))
        )


def test_what_was_left_out_is_memory_without_bytes(tmp_path: Path) -> None:
    source = Filtered(Guest(MemoryMap(), arch="s390x"), {0: b"a" * 4096 * 4, 1 << 20: b"b" * 4096 * 4})
    out = tmp_path / "out"
    pydump.dump(source, str(out), format="elf")
    with elf(out) as file:
        assert not file.little_endian
        got = [(h.p_paddr, h.p_filesz, h.p_memsz) for h in loads(file)]
    assert got == [
        (0, 4096, 8192),
        (8192, 4096, 8192),
        (1 << 20, 4096, 8192),
        ((1 << 20) + 8192, 4096, 8192),
    ]
    with pydump.open(str(out)) as back:
        assert back.stated.memory.size == 8 * 4096
        assert back.image.excluded() == source.excluded()


def test_what_lies_together_in_the_file_is_read_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = many_blocks(500)
    pydump.dump(source, str(tmp_path / "out"), format="elf")
    runs = [(i * 8192, i * 8192 + 4096) for i in range(500) if i != 250]
    reads = []
    read_into = FileBacking.read_into
    monkeypatch.setattr(FileBacking, "read_into", lambda *a: (reads.append(a[1]), read_into(*a)))
    with pydump.open(str(tmp_path / "out")) as dump:
        reads.clear()
        got = bytearray(4096 * 499)
        dump.image.read_runs(runs, memoryview(got))
    assert got == b"".join(i.to_bytes(8, "little") * 512 for i in range(500) if i != 250)
    assert len(reads) == 2


class Emptied(pydump.BytesImage):
    """Leaves out a whole block."""

    def excluded(self) -> Ranges:
        return Ranges.of([(1 << 20, (1 << 20) + 8192)])


def test_a_block_that_was_left_out_whole(tmp_path: Path) -> None:
    source = Emptied(Guest(MemoryMap(), arch="x86_64"), {0: b"a" * 4096, 1 << 20: b"b" * 8192})
    pydump.dump(source, str(tmp_path / "out"), format="elf")
    with elf(tmp_path / "out") as file:
        assert [(h.p_paddr, h.p_filesz, h.p_memsz) for h in loads(file)] == [(0, 4096, 4096), (1 << 20, 0, 8192)]


class Incomplete(pydump.BytesImage):
    """Has lost the second page of each block, and leaves out the last."""

    def excluded(self) -> Ranges:
        return Ranges.of((b.end - 4096, b.end) for b in self.guest().memory)

    def unreadable(self) -> Ranges:
        return Ranges.of((b.paddr + 4096, b.paddr + 8192) for b in self.guest().memory)


@pytest.mark.parametrize("arch", ["arm", "s390x"])
def test_what_was_lost_lies_past_the_end_of_the_file(arch: str, tmp_path: Path) -> None:
    """As in a file that makedumpfile could not finish, which e_flags says."""
    source = Incomplete(Guest(MemoryMap(), arch=arch), {0: A * 4, 1 << 20: B * 4})
    out = tmp_path / "out"
    assert not pydump.dump(source, str(out), format="elf").complete
    size = out.stat().st_size
    with elf(out) as file:
        assert file.header.e_flags == 1
        got = [(h.p_paddr, h.p_filesz, h.p_memsz, h.p_offset == size) for h in loads(file)]
        assert size == loads(file)[0].p_offset + 4 * 4096
    block = [(0, 4096, 4096, False), (4096, 4096, 4096, True), (8192, 4096, 8192, False)]
    assert got == block + [((1 << 20) + paddr, *rest) for paddr, *rest in block]
    with pydump.open(str(out)) as back:
        assert back.image.unreadable() == source.unreadable()
        assert back.image.excluded() == source.excluded()
        assert back.read(8192, 4096) == A
        lost = source.unreadable().size
        assert back.warnings[0] == f"{lost} bytes of guest memory could not be read when the file was made"
    with (tmp_path / "cut").open("wb") as cut:
        cut.write(out.read_bytes()[:-100])
    with pydump.open(tmp_path / "cut") as back:
        assert back.warnings[0].startswith(f"the file ends at {size - 100:#x}, ")


def test_sections_of_an_architecture_are_kept(tmp_path: Path) -> None:
    sections = (Section("pv_mem_meta", 1, b"meta" * 10, info=3), Section("pv_compl", 1, b"compl"))
    source = pydump.BytesImage(Guest(MemoryMap(), arch="s390x", sections=sections), {0: b"x" * 8192})
    first, second = tmp_path / "first", tmp_path / "second"
    pydump.dump(source, str(first), format="elf")
    pydump.dump(str(first), str(second), format="elf")
    assert first.read_bytes() == second.read_bytes()
    with elf(second) as file:
        assert [s.name for s in file.iter_sections()] == ["", "pv_mem_meta", "pv_compl", ".shstrtab"]
        assert file.get_section_by_name("pv_mem_meta").data() == b"meta" * 10
        assert file.get_section_by_name("pv_mem_meta").header.sh_info == 3
        assert file.header.e_phoff == 64
    with pytest.raises(PydumpError, match="no place for the sections pv_mem_meta"):
        pydump.dump(str(first), str(tmp_path / "kdump"))


def with_sections(path: Path, *rows: tuple[int, int, int], size: int) -> str:
    """A core of ``size`` bytes with one page of memory at offset 8192 and sections of type, offset and size."""
    head = b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 64, 4096, 0, 64, 56, 1, 64, 4, 3)
    load = struct.pack("<IIQQQQQQ", 1, 0, 8192, 0, 0, 4096, 4096, 0)
    table = bytes(64) + b"".join(
        struct.pack("<IIQQQQIIQQ", 2 * i, kind, 0, 0, at, length, 0, 0, 0, 0)
        for i, (kind, at, length) in enumerate(rows)
    )
    with path.open("wb") as file:
        file.write((head + load).ljust(200, b"\0") + b"a\0b\0")
        file.seek(4096)
        file.write(table)
        file.truncate(size)
    return str(path)


def test_a_section_is_read_when_it_is_written(tmp_path: Path) -> None:
    """A hole of 64 MiB stands for the metadata of a large protected guest."""
    source = with_sections(tmp_path / "in", (1, 12288, 64 << 20), (1, 8192, 4096), (3, 200, 4), size=12288 + (64 << 20))
    tracemalloc.start()
    pydump.dump(source, str(tmp_path / "out"), format="elf", sync=False, workers=1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 << 20
    with elf(tmp_path / "out") as file:
        # The second one is memory, which a PT_LOAD has.
        assert [(s.name, s.header.sh_size) for s in file.iter_sections()][1:-1] == [("a", 64 << 20)]
    with pydump.open(source) as dump:
        assert "the section 'b' repeats memory or another section, and is not kept" in dump.image.defects()


def test_a_32_bit_file_of_a_guest_that_is_too_large(tmp_path: Path) -> None:
    source = pydump.BytesImage(Guest(MemoryMap(), arch="arm"), {0: b"x" * 4096, 1 << 33: b"y" * 4096})
    pydump.dump(source, str(tmp_path / "out"), format="elf")
    with elf(tmp_path / "out") as file:
        assert file.elfclass == 64


@pytest.mark.parametrize("guest", ["nano-x86_64", "bare-ppc64", "bare-arm"])
def test_an_odd_window_is_the_same_as_qemus(guest: str, qemu: Qemu, tmp_path: Path) -> None:
    theirs = qemu(guest, "elf-filter-odd")
    with elf(theirs) as file:
        (load,) = loads(file)
    out = tmp_path / "out"
    pydump.dump(str(qemu(guest, "elf")), str(out), format="elf", begin=load.p_paddr, length=load.p_filesz)
    with elf(out) as file, elf(theirs) as reference:
        (ours,) = file.iter_segments("PT_LOAD")
        (want,) = reference.iter_segments("PT_LOAD")
        assert (ours.header.p_paddr, ours.header.p_filesz) == (load.p_paddr, load.p_filesz)
        assert ours.data() == want.data()
