"""kdump-compressed files: headers by the numbers of the format's description, and files made by hand from it."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

import pydump
from kdump_by_hand import PAGES, Hand, write
from pydump.builtin.files import FileBacking
from pydump.errors import FormatError, PlanError, UnsupportedError
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap
from pydump.model.note import Note
from pydump.model.vmcoreinfo import Vmcoreinfo
from pydump.testing import guests
from pydump_format_kdump.layout import (
    DiskDumpHeader32,
    DiskDumpHeader64,
    KdumpSubHeader32,
    KdumpSubHeader32Aligned,
    KdumpSubHeader64,
    PageDesc,
)

Qemu = Callable[[str, str], Path]


@pytest.mark.parametrize(
    ("layout", "size", "offsets"),
    [
        (
            DiskDumpHeader64,
            464,
            {"header_version": 8, "sysname": 12, "machine": 272, "tv_sec": 408, "tv_usec": 416, "status": 424,
             "block_size": 428, "sub_hdr_size": 432, "bitmap_blocks": 436, "max_mapnr": 440, "nr_cpus": 460},
        ),
        (
            DiskDumpHeader32,
            452,
            {"header_version": 8, "sysname": 12, "machine": 272, "tv_sec": 404, "tv_usec": 408, "status": 412,
             "block_size": 416, "sub_hdr_size": 420, "bitmap_blocks": 424, "max_mapnr": 428, "nr_cpus": 448},
        ),
        (
            KdumpSubHeader64,
            104,
            {"dump_level": 8, "split": 12, "start_pfn": 16, "end_pfn": 24, "offset_vmcoreinfo": 32, "offset_note": 48,
             "size_note": 56, "offset_eraseinfo": 64, "start_pfn_64": 80, "end_pfn_64": 88, "max_mapnr_64": 96},
        ),
        (
            KdumpSubHeader32,
            80,
            {"dump_level": 4, "split": 8, "start_pfn": 12, "end_pfn": 16, "offset_vmcoreinfo": 20,
             "size_vmcoreinfo": 28, "offset_note": 32, "size_note": 40, "offset_eraseinfo": 44, "start_pfn_64": 56,
             "end_pfn_64": 64, "max_mapnr_64": 72},
        ),
        (
            KdumpSubHeader32Aligned,
            96,
            {"offset_vmcoreinfo": 24, "size_vmcoreinfo": 32, "offset_note": 40, "size_note": 48,
             "offset_eraseinfo": 56, "start_pfn_64": 72, "end_pfn_64": 80, "max_mapnr_64": 88},
        ),
        (PageDesc, 24, {"size": 8, "flags": 12, "page_flags": 16}),
    ],
)  # fmt: skip
def test_the_structs_are_where_the_format_has_them(layout: type, size: int, offsets: dict[str, int]) -> None:
    assert layout.nbytes() == size  # type: ignore[attr-defined]
    assert {name: layout.offset_of(name) for name in offsets} == offsets  # type: ignore[attr-defined]


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("bits", "aligned"), [(64, True), (32, True), (32, False)])
def test_every_version_width_and_byte_order_is_read(
    version: int, order: str, bits: int, aligned: bool, tmp_path: Path
) -> None:
    note = struct.pack(order + "III", 5, 4, 7) + b"CORE\0\0\0\0" + b"desc"
    hand = Hand(version=version, order=order, bits=bits, aligned=aligned, pages=PAGES, excluded=(6, 7), note=note)
    with pydump.open(write(tmp_path / "k", hand), arch="x86_64") as dump:
        for pfn, page in PAGES.items():
            assert dump.read(pfn * 4096, 4096) == page
        assert list(dump.image.excluded()) == [(6 * 4096, 8 * 4096)]
        assert dump.stated.byte_order == {"<": "little", ">": "big"}[order]
        assert dump.stated.elf_class == bits
        assert [(n.name, n.type, n.desc) for n in dump.notes] == ([("CORE", 7, b"desc")] if version >= 4 else [])


@pytest.mark.parametrize("block", [4096, 16384, 65536])
def test_every_block_size_is_read_in_any_piece(block: int, tmp_path: Path) -> None:
    pages = {3: guests.text_page(1, block), 4: guests.random_page(2, block)}
    with pydump.open(write(tmp_path / "k", Hand(block=block, pages=pages)), arch="aarch64") as dump:
        whole = pages[3] + pages[4]
        assert dump.read(3 * block, 2 * block) == whole
        assert dump.read(3 * block + 100, block) == whole[100 : 100 + block]


def test_larger_blocks_become_the_guests_pages(tmp_path: Path) -> None:
    pages = {3: guests.text_page(1, 65536), 4: guests.random_page(2, 65536)}
    source, out = write(tmp_path / "k", Hand(block=65536, pages=pages)), str(tmp_path / "out")
    info = Vmcoreinfo(b"OSRELEASE=6.1\nPAGESIZE=4096\n")
    pydump.dump(source, out, arch="aarch64", vmcoreinfo=info)
    with pydump.open(out) as dump:
        assert dump.stated.page_size == 4096
        assert dump.read(3 * 65536, 131072) == pages[3] + pages[4]


def split_set(tmp_path: Path) -> list[str]:
    return [write(tmp_path / f"part{i}", Hand(pages=PAGES, split=span)) for i, span in enumerate([(0, 5), (5, 4001)])]


def test_a_split_set_is_read_whatever_the_order(tmp_path: Path) -> None:
    parts = split_set(tmp_path)
    for order in (parts, parts[::-1]):
        with pydump.open(",".join(order), arch="x86_64") as dump:
            assert all(dump.read(pfn * 4096, 4096) == page for pfn, page in PAGES.items())
    pydump.dump(",".join(parts), str(tmp_path / "whole"), compression="none")
    assert pydump.compare(",".join(parts), str(tmp_path / "whole")).same


def test_parts_that_are_there_twice_or_foreign(tmp_path: Path) -> None:
    parts = split_set(tmp_path)
    whole = write(tmp_path / "whole", Hand(pages=PAGES))
    foreign = write(tmp_path / "foreign", Hand(pages={**PAGES, 9000: PAGES[0]}, split=(5, 9001)))
    for wrong, says in (
        ([parts[0], parts[0]], "part0 holds pages that another part holds, too"),
        ([*parts, parts[1]], "part1 holds pages that another part holds, too"),
        ([parts[0], whole], "part"),
        ([parts[0], foreign], "not parts of one dump"),
    ):
        with pytest.raises(PlanError, match=says):
            pydump.open(",".join(wrong))


def test_a_32_bit_header_whose_counts_look_like_a_64_bit_one(tmp_path: Path) -> None:
    """Where one has max_mapnr, total_ram_blocks and device_blocks, the other has the block size and two counts."""
    hand = Hand(bits=32, pages={0: PAGES[0], 0x7FFFF: PAGES[1]}, blocks=(0x400, 1))
    with pydump.open(write(tmp_path / "k", hand), arch="arm") as dump:
        assert (dump.stated.elf_class, dump.stated.page_size) == (32, 4096)
        assert dump.read(0, 4096) == PAGES[0]


@pytest.mark.parametrize(("status", "lost", "says"), [(8, (), "zlib"), (9, (5,), "zlib")])
def test_diskdump_has_status_numbers_of_its_own(status: int, lost: tuple[int, ...], says: str, tmp_path: Path) -> None:
    """8: compressed; 1: incomplete. Source: crash's diskdump.h."""
    source = write(tmp_path / "k", Hand(signature=b"DISKDUMP", version=1, pages=PAGES, status=status, lost=lost))
    with pydump.open(source, arch="x86_64") as dump:
        rows = dict(dump.image.describe())
        assert rows["compression"].startswith(says)
        assert ("incomplete" in rows) == bool(lost)
        assert [start // 4096 for start, _ in dump.image.unreadable()] == list(lost)


def test_phys_base_has_a_sign_where_x86_64_has_one(tmp_path: Path) -> None:
    """An arm guest whose RAM begins at 2 GiB, and a kernel below the address it is linked to."""
    wide = write(tmp_path / "wide", Hand(pages=PAGES, phys_base=struct.pack("<q", -(1 << 31))))
    with pydump.open(wide, arch="x86_64") as dump:
        assert dump.stated.phys_base == -(1 << 31)
    narrow = write(tmp_path / "narrow", Hand(bits=32, pages=PAGES, phys_base=struct.pack("<I", 1 << 31)))
    with pydump.open(narrow, arch="arm") as dump:
        assert dump.stated.phys_base == 1 << 31
    out = tmp_path / "out"
    pydump.dump(pydump.BytesImage(Guest(MemoryMap(), arch="arm"), {1 << 31: b"x" * 4096}), str(out))
    assert struct.unpack_from("<I", out.read_bytes(), 4096) == (1 << 31,)
    pydump.dump(str(out), str(tmp_path / "elf"), format="elf")
    assert pydump.compare(str(out), str(tmp_path / "elf")).same


def test_an_incomplete_dump_says_what_is_lost(tmp_path: Path) -> None:
    source = write(tmp_path / "k", Hand(pages=PAGES, status=9, lost=(5,)))
    with pydump.open(source) as dump:
        assert list(dump.image.unreadable()) == [(5 * 4096, 6 * 4096)]
        with pytest.raises(pydump.PydumpError, match="is unreadable"):
            dump.read(5 * 4096, 4096)
    report = pydump.dump(source, str(tmp_path / "out"))
    assert not report.complete
    assert report.unreadable_size == 4096
    assert not pydump.verify(source).ok


@pytest.mark.parametrize("dedup", [False, True])
@pytest.mark.parametrize("compression", ["zlib", "none"])
def test_what_was_lost_is_lost_in_the_dump_of_it(compression: str, dedup: bool, tmp_path: Path) -> None:
    """As makedumpfile marks it: status 8, a bit in the 2nd bitmap, and a descriptor with nothing in it."""
    pages = {**PAGES, 6: guests.zero_page(0), 7: PAGES[0], 8: PAGES[5]}
    source = write(tmp_path / "in", Hand(pages=pages, excluded=(3,), status=9, lost=(5, 7)))
    out, elf = tmp_path / "out", tmp_path / "elf"
    report = pydump.dump(source, str(out), compression=compression, options={"kdump": {"dedup": dedup}})
    assert (report.unreadable_size, report.excluded_size, report.zero_size) == (8192, 4096, 8192)
    assert fields(out)["status"] == 8 | (compression == "zlib")
    descs = dict(zip(sorted(pages), descriptors(out), strict=True))
    assert [pfn for pfn, desc in descs.items() if desc == (0, 0, 0, 0)] == [5, 7]
    pydump.dump(str(out), str(elf), format="elf")
    for path, n_faults in ((out, 2), (elf, 3)):  # the end of an ELF file before its last segment's is one more
        with pydump.open(path, arch="x86_64") as dump:
            assert list(dump.image.unreadable()) == [(5 * 4096, 6 * 4096), (7 * 4096, 8 * 4096)]
            assert list(dump.image.excluded()) == [(3 * 4096, 4 * 4096)]
            assert all(dump.read(pfn * 4096, 4096) == pages[pfn] for pfn in pages if pfn not in (5, 7))
        assert pydump.compare(source, str(path)).same
        assert pydump.verify(str(path)).n_faults == n_faults


def test_a_page_that_is_lost_in_part_is_lost(tmp_path: Path) -> None:
    """An ELF file that makedumpfile could not finish ends anywhere."""
    source, out = tmp_path / "in", tmp_path / "out"
    pydump.dump(small({0: guests.text_page(0) + guests.text_page(1) + guests.text_page(2)}), str(source), format="elf")
    data = bytearray(source.read_bytes()[:-5000])
    data[48] = 1  # e_flags
    source.write_bytes(data)
    report = pydump.dump(str(source), str(out))
    assert report.unreadable_size == 8192
    assert [desc[0] > 0 for desc in descriptors(out)] == [True, False, False]


ERASED = b"erase task_struct.comm 16\nerase linux_banner nullify\n"


@pytest.mark.parametrize(("bits", "aligned"), [(64, True), (32, True), (32, False)])
def test_what_was_erased_stays_said(bits: int, aligned: bool, tmp_path: Path) -> None:
    """makedumpfile has it in the sub header of a kdump, and in a note of an ELF file."""
    arch = "x86_64" if bits == 64 else "arm" if aligned else "i386"
    note = struct.pack("<III", 5, 4, 7) + b"CORE\0\0\0\0" + b"desc"
    source = write(tmp_path / "in", Hand(bits=bits, aligned=aligned, pages=PAGES, note=note, erased=ERASED))
    kdump, elf = tmp_path / "kdump", tmp_path / "elf"
    pydump.dump(source, str(kdump), arch=arch)
    pydump.dump(str(kdump), str(elf), format="elf")
    pydump.dump(str(elf), str(tmp_path / "again"))
    for path in (source, kdump, elf, tmp_path / "again"):
        with pydump.open(path, arch=arch) as dump:
            assert dump.notes[-1] == Note("ERASEINFO", 0, ERASED), path
            assert len(dump.notes) == 2
    at = {(64, True): 64, (32, True): 56, (32, False): 44}[bits, aligned]
    for path in (kdump, tmp_path / "again"):
        data = path.read_bytes()
        offset, size = struct.unpack_from("<QQ" if bits == 64 else "<QI", data, 4096 + at)
        assert data[offset : offset + size] == ERASED
    assert struct.pack("<III", 10, len(ERASED), 0) + b"ERASEINFO\0\0\0" + ERASED in elf.read_bytes()


def test_what_was_erased_of_each_part(tmp_path: Path) -> None:
    lines = ERASED.splitlines(keepends=True)
    parts = [
        write(tmp_path / f"part{i}", Hand(pages=PAGES, split=span, erased=lines[i]))
        for i, span in enumerate([(0, 5), (5, 4001)])
    ]
    with pydump.open(",".join(parts), arch="x86_64") as dump:
        assert dump.notes == (Note("ERASEINFO", 0, ERASED),)


def test_many_runs_are_read_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of two parts, some side by side, some far apart, some not in the dump, one beyond a hole of descriptors."""
    pages = {pfn: guests.text_page(pfn) if pfn % 3 else guests.zero_page(0) for pfn in range(0, 900, 2)}
    for part, split in (("a", (0, 300)), ("b", (300, 900))):
        write(tmp_path / part, Hand(pages=pages, excluded=(899,), split=split))
    wanted = [*range(0, 60, 2), 61, 62, 298, 300, 302, *range(800, 900, 2)]
    reads = []
    read_into = FileBacking.read_into
    monkeypatch.setattr(FileBacking, "read_into", lambda *a: (reads.append(a[1]), read_into(*a)))
    with pydump.open(f"{tmp_path / 'a'},{tmp_path / 'b'}") as dump:
        reads.clear()
        got = bytearray(4096 * len(wanted))
        dump.image.read_runs([(pfn * 4096, pfn * 4096 + 4096) for pfn in wanted], memoryview(got))
    assert got == b"".join(pages.get(pfn, bytes(4096)) for pfn in wanted)
    assert len(reads) < len(wanted) // 2


def test_a_bitmap_is_as_large_in_memory_as_what_it_says(tmp_path: Path) -> None:
    """Bitmaps for 64 TiB of which the file has two blocks: the rest of them is holes."""
    blocks = (1 << 34) // 8 // 4096
    head = bytearray(Hand(pages={0: guests.text_page(0)}).build()[:8192])
    struct.pack_into("<II", head, 436, 2 * blocks, 0xFFFFFFFF)
    struct.pack_into("<Q", head, 4096 + 96, 1 << 34)
    with (tmp_path / "k").open("wb") as file:
        file.write(head)
        for first in (0, blocks):
            file.seek((2 + first) * 4096)
            file.write(b"\5".ljust(4096, b"\0"))
        file.truncate((2 + 2 * blocks) * 4096 + 48)
    tracemalloc.start()
    with pydump.open(tmp_path / "k", arch="x86_64") as dump:
        _, peak = tracemalloc.get_traced_memory()
        assert [(block.paddr, block.size) for block in dump.stated.memory] == [(0, 4096), (8192, 4096)]
    tracemalloc.stop()
    assert peak < 2 * (1 << 31) + (256 << 20)  # the arrays themselves, untouched, and little else


def fields(path: Path) -> dict[str, int]:
    """What a little-endian 64-bit file's headers say, by the description's offsets."""
    data = path.read_bytes()
    names = ("status", "block_size", "sub_hdr_size", "bitmap_blocks", "max_mapnr")
    head = dict(zip(names, struct.unpack_from("<IiiII", data, 424), strict=True))
    block = head["block_size"]
    sub = dict(zip(("phys_base", "dump_level", "split"), struct.unpack_from("<qii", data, block), strict=True))
    names = ("vmcoreinfo_at", "vmcoreinfo_size", "note_at", "note_size")
    sub |= dict(zip(names, struct.unpack_from("<QQQQ", data, block + 32), strict=True))
    return head | sub | {"max_mapnr_64": struct.unpack_from("<Q", data, block + 96)[0], "cpus": data[460]}


def test_what_the_headers_of_a_booted_guest_say(qemu: Qemu, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pydump.dump(str(qemu("linux-x86_64", "elf")), str(out), compression="zlib")
    data, f = out.read_bytes(), fields(out)
    assert (f["status"], f["block_size"], f["cpus"]) == (1, 4096, 2)
    assert f["max_mapnr"] == f["max_mapnr_64"] == 0x100000  # the firmware ends at 4 GiB
    assert f["bitmap_blocks"] == 2 * (0x100000 // 8 // 4096)
    uts = [data[12 + 65 * i : 77 + 65 * i].rstrip(b"\0") for i in range(6)]
    version = b"#1 SMP PREEMPT_DYNAMIC Debian 6.1.176-1 (2026-07-02)"
    assert uts == [b"Linux", b"(none)", b"6.1.0-50-amd64", version, b"x86_64", b"(none)"]
    text = data[f["vmcoreinfo_at"] : f["vmcoreinfo_at"] + f["vmcoreinfo_size"]]
    assert text.startswith(b"OSRELEASE=6.1.0-50-amd64\n")
    assert f["note_at"] < f["vmcoreinfo_at"] < f["note_at"] + f["note_size"]
    # Linux writes it as a signed decimal, and so it is read.
    (line,) = [line for line in text.splitlines() if line.startswith(b"NUMBER(phys_base)=")]
    assert f["phys_base"] == int(line.split(b"=")[1])


@pytest.mark.parametrize("guest", ["bare-aarch64", "bare-arm", "bare-s390x"])
def test_what_one_file_alone_states_is_no_difference(guest: str, qemu: Qemu) -> None:
    """A kdump has a block size and a phys_base, and an ELF file of the same guest neither."""
    assert pydump.compare(str(qemu(guest, "elf")), str(qemu(guest, "kdump-zlib"))).same


def test_a_number_of_cpus_without_their_notes_is_no_difference(tmp_path: Path) -> None:
    source = write(tmp_path / "k", Hand(pages=PAGES))  # its header says 2
    pydump.dump(source, str(tmp_path / "elf"), format="elf")
    assert pydump.compare(source, str(tmp_path / "elf")).same
    other = bytearray(Path(source).read_bytes())
    other[460] = 3
    (tmp_path / "three").write_bytes(other)
    found = pydump.compare(source, str(tmp_path / "three")).differences
    assert [(d.kind, d.name, d.left, d.right) for d in found] == [("fact", "n_cpus", 2, 3)]


def small(contents: dict[int, bytes]) -> pydump.BytesImage:
    return pydump.BytesImage(Guest(MemoryMap(), arch="x86_64"), contents)


def descriptors(path: Path) -> list[tuple[int, int, int, int]]:
    data, f = path.read_bytes(), fields(path)
    at = (1 + f["sub_hdr_size"]) * 4096
    half = f["bitmap_blocks"] // 2 * 4096
    n = sum(byte.bit_count() for byte in data[at + half : at + 2 * half])
    return [struct.unpack_from("<qIIQ", data, at + 2 * half + 24 * i) for i in range(n)]


@pytest.mark.parametrize("compression", ["none", "zlib", "lzo", "snappy", "zstd"])
def test_zero_pages_share_one_block_and_pages_that_do_not_shrink_are_raw(compression: str, tmp_path: Path) -> None:
    pages = [guests.zero_page(0), guests.random_page(1), guests.text_page(2), guests.zero_page(0)]
    out = tmp_path / "out"
    pydump.dump(small({0: b"".join(pages)}), str(out), compression=compression)
    zero, random, text, again = descriptors(out)
    flag = {"none": 0, "zlib": 1, "lzo": 2, "snappy": 4, "zstd": 0x20}[compression]
    assert zero == again
    assert zero[1:] == (4096, 0, 0)
    assert out.read_bytes()[zero[0] : zero[0] + 4096] == bytes(4096)
    assert random[1:] == (4096, 0, 0)
    assert text[2] == flag
    assert text[1] < 4096 or compression == "none"
    assert [offset for offset, *_ in (zero, random, text)] == sorted(offset for offset, *_ in (zero, random, text))
    assert fields(out)["status"] == flag


def test_a_last_partial_page_is_counted_and_filled(tmp_path: Path) -> None:
    out = tmp_path / "out"
    pydump.dump(small({0x1800: b"x" * 0x1001}), str(out))
    assert fields(out)["max_mapnr_64"] == 3
    with pydump.open(str(out)) as dump:
        assert dump.read(0x1000, 0x2000) == bytes(0x800) + b"x" * 0x1001 + bytes(0x7FF)


def test_a_window_is_widened_to_whole_pages_and_says_so(tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = pydump.dump(small({0: b"x" * 16384}), out, begin=0x1801, length=0x1000)
    assert report.warnings == ("kdump holds whole pages: it covers 0x1000..0x3000",)
    with pydump.open(out) as dump:
        assert dump.read(0x1000, 0x2000) == b"x" * 0x2000
        assert dump.stated.memory.size == 0x2000
    assert pydump.dump(small({0: b"x" * 16384}), out, begin=0x1000, length=0x2000, force=True).warnings == ()


@pytest.mark.parametrize("codec", ["none", "zlib", "lzo", "snappy", "zstd"])
def test_pages_are_taken_over_as_they_are(codec: str, qemu: Qemu, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    pydump.dump(str(qemu("bare-x86_64", "elf")), str(first), compression=codec)
    pydump.dump(str(first), str(second), compression=codec)
    assert first.read_bytes() == second.read_bytes()


def test_who_asks_for_a_level_gets_it(qemu: Qemu, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    source = str(qemu("bare-x86_64", "elf"))
    pydump.dump(source, str(first), compression="zlib", options={"zlib": {"level": 1}})
    pydump.dump(str(first), str(second), compression="zlib", options={"zlib": {"level": 9}})
    assert second.stat().st_size < first.stat().st_size
    assert pydump.compare(str(first), str(second)).same


def test_32_bit_sub_headers_fit_the_guests_c(tmp_path: Path) -> None:
    for arch, max_mapnr_at in (("i386", 72), ("arm", 88)):
        out = tmp_path / arch
        pydump.dump(pydump.BytesImage(Guest(MemoryMap(), arch=arch), {0x3000: b"x" * 4096}), str(out))
        (max_mapnr,) = struct.unpack_from("<Q", out.read_bytes(), 4096 + max_mapnr_at)
        assert max_mapnr == 4


def test_ram_where_no_machine_has_any(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="RAM ends at 0x1000000000001000, past 4096 TiB"):
        pydump.dump(small({0: b"x" * 4096, 1 << 60: b"x" * 4096}), str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("version", "says"), [(0, "has no place for notes"), (7, "is read as version 6"), (900, "900")]
)
def test_other_header_versions_are_read_with_a_warning(version: int, says: str, tmp_path: Path) -> None:
    with pydump.open(write(tmp_path / "k", Hand(version=version, pages=PAGES)), arch="x86_64") as dump:
        assert all(dump.read(pfn * 4096, 4096) == page for pfn, page in PAGES.items())
        (line,) = dump.image.warnings()
        assert says in line


@pytest.mark.parametrize("status", [0x10, 0x11])
def test_excluded_page_structs_stay_said(status: int, tmp_path: Path) -> None:
    """makedumpfile -e. Source: DUMP_DH_EXCLUDED_VMEMMAP in makedumpfile's diskdump_mod.h."""
    source = write(tmp_path / "in", Hand(pages=PAGES, status=status))
    pydump.dump(source, str(tmp_path / "out"), compression="lzo")
    assert fields(tmp_path / "out")["status"] == 0x12


def test_the_dump_level_says_what_was_left_out(tmp_path: Path) -> None:
    out = tmp_path / "out"
    pydump.dump(small({0: guests.text_page(0)}), out)
    assert fields(out)["dump_level"] == 0
    pydump.dump(write(tmp_path / "in", Hand(pages=PAGES, excluded=(6,))), out, force=True)
    assert fields(out)["dump_level"] == 1


def test_info_names_the_compressor_of_a_file_whose_header_names_none(tmp_path: Path) -> None:
    with pydump.open(write(tmp_path / "k", Hand(pages=PAGES, status=0)), arch="x86_64") as dump:
        says = dict(dump.image.describe())["compression"]
    assert says.startswith("zlib, read with ")
    assert says.endswith("; the header says none")


@pytest.mark.parametrize("order", ["<", ">"])
def test_an_aligned_sub_header_with_an_offset_and_no_size_keeps_its_notes(order: str, tmp_path: Path) -> None:
    note = struct.pack(order + "III", 5, 4, 7) + b"CORE\0\0\0\0" + b"desc"
    hand = Hand(bits=32, order=order, pages=PAGES, note=note, vmcoreinfo_at=4096 + 200)
    with pydump.open(write(tmp_path / "k", hand), arch="arm") as dump:
        assert [n.desc for n in dump.notes] == [b"desc"]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("phys_base", [0x40000000, 0x60000000, 0x80200000])
def test_a_file_of_32_bit_arm_counts_pages_from_phys_base(order: str, phys_base: int, tmp_path: Path) -> None:
    """makedumpfile on ARM has the page at phys_base in bit 0 of the bitmaps; it writes the aligned sub header."""
    base = struct.pack(order + "I", phys_base)
    hand = Hand(
        bits=32, order=order, machine=b"armv7l", phys_base=base, pages=PAGES, excluded=(6,), status=9, lost=(5,)
    )
    source, elf = write(tmp_path / "k", hand), str(tmp_path / "elf")
    with pydump.open(source) as dump:
        assert dump.stated.memory.start == dump.stated.phys_base == phys_base
        assert all(dump.read(phys_base + p * 4096, 4096) == page for p, page in PAGES.items() if p != 5)
        assert list(dump.image.excluded()) == [(phys_base + 6 * 4096, phys_base + 7 * 4096)]
        assert list(dump.image.unreadable()) == [(phys_base + 5 * 4096, phys_base + 6 * 4096)]
        assert ("first page", f"{phys_base:#x}: pages are counted from phys_base") in dump.image.describe()
    pydump.dump(source, elf, format="elf")
    assert pydump.compare(source, elf).same
    assert not pydump.verify(source).ok  # the lost page


def test_pages_are_counted_from_phys_base_where_the_user_wants_it(tmp_path: Path) -> None:
    ram = {0x40000000: guests.text_page(0) + guests.random_page(1), 0x40005000: guests.ramp_page(0)}
    guest = pydump.BytesImage(Guest(MemoryMap(), arch="arm"), ram)
    plain, based = tmp_path / "plain", tmp_path / "based"
    pydump.dump(guest, plain, compression="zlib")
    pydump.dump(guest, based, compression="zlib", options={"kdump": {"pfn_base": "phys_base"}})
    data = based.read_bytes()
    assert struct.unpack_from("<I", data, 428) == (6,)  # max_mapnr
    assert struct.unpack_from("<I", data, 4096) == (0x40000000,)
    assert data[2 * 4096] == data[3 * 4096] == 0b100011
    assert pydump.compare(str(plain), str(based)).same
    assert plain.stat().st_size > based.stat().st_size


def test_pages_of_other_guests_are_counted_from_zero(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="for arm guests only"):
        pydump.dump(small({0: bytes(4096)}), tmp_path / "out", options={"kdump": {"pfn_base": "phys_base"}})
    assert not (tmp_path / "out").exists()


def test_a_file_of_arm_with_ram_from_phys_base_on_is_read_as_it_says(tmp_path: Path) -> None:
    """QEMU's and pydump's count from 0, and phys_base is where RAM begins."""
    hand = Hand(bits=32, machine=b"armv7l", phys_base=struct.pack("<I", 0x5000), pages={5: PAGES[0], 9: PAGES[5]})
    with pydump.open(write(tmp_path / "k", hand)) as dump:
        assert dump.stated.memory.start == 0x5000
        assert dump.read(0x9000, 4096) == PAGES[5]


@pytest.mark.parametrize("high", [1 << 46, (1 << 52) - 65536])
def test_ram_up_to_52_bits_is_written_and_read(high: int, tmp_path: Path) -> None:
    """Dual-socket arm64 servers have RAM above 64 TiB. The bitmaps between are holes."""
    ram = {0x90000000: guests.text_page(0), high: guests.random_page(1) + guests.ramp_page(2)}
    source = pydump.BytesImage(Guest(MemoryMap(), arch="aarch64"), ram)
    out, again = tmp_path / "out", tmp_path / "again"
    tracemalloc.start()
    pydump.dump(source, out, compression="zlib", workers=1)
    with pydump.open(out) as dump:
        assert [block.paddr for block in dump.stated.memory] == [0x90000000, high]
        assert all(dump.read(paddr, len(data)) == data for paddr, data in ram.items())
    pydump.dump(out, again, compression="none", workers=1)
    assert pydump.compare(out, again, workers=1).same
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert out.stat().st_blocks * 512 < 1 << 20
    assert peak < 100 << 20


def test_a_page_that_many_descriptors_share_is_decompressed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In blocks of 256 KiB, of which a batch has sixteen."""
    from pydump_compressor_zlib import ZlibCompressor

    block, n = 1 << 18, 40
    page = guests.text_page(1, block)
    hand = Hand(block=block, pages=dict.fromkeys(range(n), page))
    data = bytearray(hand.build())
    at = hand.regions()["descriptors"][0]
    data[at : at + 24 * n] = data[at : at + 24] * n
    source = tmp_path / "k"
    source.write_bytes(data)
    calls = []
    decompress = ZlibCompressor.decompress
    monkeypatch.setattr(ZlibCompressor, "decompress", lambda *a: (calls.append(1), decompress(*a))[1])
    assert pydump.verify(source, workers=1).checked_size == n * block
    assert len(calls) == 1
    with pydump.open(source) as dump:
        assert dump.read(0, n * block) == page * n


@pytest.mark.parametrize("block", [512, 2048, 1 << 19, 1 << 20, 3 << 12])
def test_blocks_of_no_page_size_are_refused(block: int, tmp_path: Path) -> None:
    data = bytearray(Hand(pages={0: PAGES[0]}).build())
    struct.pack_into("<i", data, 428, block)
    (tmp_path / "k").write_bytes(data)
    with pytest.raises(FormatError, match="no byte order and width gives a header that makes sense"):
        pydump.open(tmp_path / "k")


@pytest.mark.parametrize("arch", ["arm", "riscv32"])
def test_an_aligned_sub_header_always_has_offset_vmcoreinfo(arch: str, tmp_path: Path) -> None:
    """libkdumpfile takes the header for a packed one where it is 0. Source: its read_sub_hdr_32()."""
    out = tmp_path / "out"
    pydump.dump(pydump.BytesImage(Guest(MemoryMap(), arch=arch), {0x3000: b"x" * 4096}), out)
    offset, size = struct.unpack_from("<QI", out.read_bytes(), 4096 + 24)
    assert (offset > 4096, size) == (True, 0)
