"""kdump files, plain, flattened and split, that end too early or have damaged tables: what is there is read."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import pydump
from kdump_by_hand import PAGES, Hand, write
from pydump.errors import FormatError, PydumpError, ReadError
from pydump.model.memory import Ranges
from pydump.registry import installed
from pydump.testing import guests

#: Cuts of each kind of file in a test; PYDUMP_CUTS=25 tries 525 in all.
CUTS = int(os.environ.get("PYDUMP_CUTS", "5"))
FLAGS = {"none": 0, "zlib": 1, "lzo": 2, "snappy": 4, "zstd": 0x20}
#: Bits, byte order, alignment of the sub header, block size, compressor.
KINDS = [
    (64, "<", True, 4096, "zlib"),
    (64, ">", True, 4096, "none"),
    (32, "<", True, 4096, "lzo"),
    (32, "<", False, 4096, "snappy"),
    (32, ">", False, 16384, "zstd"),
    (64, "<", True, 65536, "zlib"),
    (64, ">", True, 65536, "lzo"),
]


def small_file(bits: int, order: str, aligned: bool, block: int, codec: str) -> Hand:
    """A file of 60 pages with gaps between them, some zero, some that do not shrink, some the same, some left out."""
    kinds = (guests.text_page, guests.zero_page, guests.random_page, guests.ramp_page)
    pages = {3 * i + i // 9: kinds[i % 4](i % 11, block) for i in range(60)}
    note = struct.pack(order + "III", 5, 4, 7) + b"CORE\0\0\0\0" + b"desc"
    if codec == "none":
        return Hand(bits=bits, order=order, aligned=aligned, block=block, pages=pages, excluded=(1, 2, 70), note=note,
                    flag=0, status=0, compress=bytes)  # fmt: skip
    compressor = installed().compressor(codec)
    flag = FLAGS[codec]
    return Hand(bits=bits, order=order, aligned=aligned, block=block, pages=pages, excluded=(1, 2, 70), note=note,
                flag=flag, status=flag, compress=compressor.compress)  # fmt: skip


def check(source: str, hand: Hand, tmp_path: Path) -> int:
    """Whether what is read of a cut file is what was in it; returns how many bytes are unreadable."""
    block = hand.block
    with pydump.open(source, arch="x86_64" if hand.bits == 64 else "arm") as dump:
        lost = dump.image.unreadable()
        excluded = dump.image.excluded()
        ram = dump.stated.memory.ranges()
        for pfn, page in hand.pages.items():
            start, end = pfn * block, (pfn + 1) * block
            if not ram.clip(start, end):
                continue
            if lost.clip(start, end):
                with pytest.raises(ReadError, match="is unreadable"):
                    dump.read(start, block)
            else:
                assert dump.read(start, block) == page
                assert not excluded.clip(start, end)
        assert not excluded.subtract(Ranges.of((p * block, (p + 1) * block) for p in hand.excluded))
        assert bool(dump.image.warnings()) >= bool(lost)
        assert not lost.intersect(excluded)
    if not ram:
        return 0
    out = tmp_path / "out"
    arch = "x86_64" if hand.bits == 64 else "arm"
    if hand.order == "<":
        report = pydump.dump(source, out, arch=arch, format="elf", force=True, workers=1, sync=False)
        assert (report.unreadable_size, report.complete) == (lost.size, not lost)
        with pydump.open(out) as again:
            assert again.image.unreadable() == lost
    return lost.size


def random_cuts(hand: Hand, seed: int) -> Iterator[int]:
    """Where to cut, each part of the file as often as another."""
    draw = random.Random(seed)
    regions = list(hand.regions().values())
    for i in range(CUTS):
        start, end = regions[i % len(regions)]
        yield draw.randrange(start, end)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_cut_file_reads_what_is_there(kind: tuple[int, str, bool, int, str], tmp_path: Path) -> None:
    hand = small_file(*kind)
    whole = hand.build()
    source = tmp_path / "cut"
    for at in random_cuts(hand, seed=KINDS.index(kind)):
        source.write_bytes(whole[:at])
        if at < (464 if hand.bits == 64 else 452):
            with pytest.raises(PydumpError):
                pydump.open(source)
        else:
            check(str(source), hand, tmp_path)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_cut_flattened_file_reads_what_is_there(kind: tuple[int, str, bool, int, str], tmp_path: Path) -> None:
    """Whatever the order in which the records were written."""
    hand = small_file(*kind)
    whole = hand.build()
    draw = random.Random(100 + KINDS.index(kind))
    source = tmp_path / "cut"
    for _ in range(CUTS):
        step = draw.choice((100, 1000, 5000))
        records = [(at, whole[at : at + step]) for at in range(0, len(whole), step)]
        headers = hand.regions()["bitmaps"][1] // step + 1
        tail = records[headers:]
        draw.shuffle(tail)
        stream = (b"makedumpfile".ljust(16, b"\0") + struct.pack(">qq", 1, 1)).ljust(4096, b"\0")
        stream += b"".join(struct.pack(">qq", at, len(data)) + data for at, data in records[:headers] + tail)
        cut = draw.randrange(4096 + 16 + 464, len(stream)) if draw.random() < 0.8 else len(stream)
        source.write_bytes(stream[:cut])
        if step >= 464 or cut > 4096 + 5 * 116:
            check(str(source), hand, tmp_path)
            with pydump.open(source) as dump:
                assert "without its end mark" in dump.image.warnings()[-1]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_cut_or_incomplete_split_set_reads_what_is_there(
    kind: tuple[int, str, bool, int, str], tmp_path: Path
) -> None:
    hand = small_file(*kind)
    top = max(hand.pages) + 1
    spans = [(0, 50), (50, 120), (120, top)]
    draw = random.Random(200 + KINDS.index(kind))
    for _ in range(CUTS):
        parts = [replace(hand, split=span) for span in spans]
        paths = [Path(write(tmp_path / f"part{i}", part)) for i, part in enumerate(parts)]
        kept = [path for path in paths if draw.random() < 0.8] or paths[:1]
        draw.shuffle(kept)
        for path in kept:
            if draw.random() < 0.4:
                data = path.read_bytes()
                path.write_bytes(data[: draw.randrange(464, len(data))])
        check(",".join(map(str, kept)), hand, tmp_path)


@pytest.mark.parametrize(
    ("region", "says"),
    [
        ("sub header", "within the sub header or the notes"),
        ("bitmaps", "within the bitmaps"),
        ("descriptors", "within the page descriptors"),
        ("page data", "within the page data"),
    ],
)
def test_a_warning_says_where_a_file_ends(region: str, says: str, tmp_path: Path) -> None:
    hand = small_file(*KINDS[0])
    start, end = hand.regions()[region]
    source = tmp_path / "cut"
    source.write_bytes(hand.build()[: (start + end) // 2])
    with pydump.open(source) as dump:
        lost = dump.image.unreadable().size // hand.block
        (line,) = dump.image.warnings()
    size = f"{lost} pages are unreadable" if lost else "how many pages are lost is not known"
    assert f"ends at {(start + end) // 2:#x}, {says}; {size}" in line


def test_no_warning_where_nothing_is_missing(tmp_path: Path) -> None:
    for kind in KINDS:
        with pydump.open(write(tmp_path / "k", small_file(*kind)), arch="x86_64") as dump:
            assert dump.image.warnings() == ()
            assert not dump.image.unreadable()


@dataclass(frozen=True)
class Damage:
    """A descriptor of page 3 that leads nowhere."""

    offset: int | None = None
    size: int | None = None
    flags: int | None = None


@pytest.mark.parametrize(
    "damage",
    [
        Damage(offset=0),
        Damage(offset=100),
        Damage(offset=1 << 40),
        Damage(offset=-1),
        Damage(size=0),
        Damage(size=4097),
        Damage(flags=0x40),
        Damage(flags=0),
        Damage(flags=0xFFFFFFFF),
    ],
    ids=str,
)
def test_a_page_whose_descriptor_leads_nowhere_is_unreadable_and_no_other(damage: Damage, tmp_path: Path) -> None:
    hand = Hand(pages={pfn: guests.text_page(pfn) for pfn in range(10)})
    data = bytearray(hand.build())
    at = hand.regions()["descriptors"][0] + 24 * 3
    offset, size, flags = struct.unpack_from("<qII", data, at)
    values = (damage.offset, damage.size, damage.flags)
    struct.pack_into(
        "<qII", data, at, *(old if new is None else new for old, new in zip((offset, size, flags), values, strict=True))
    )
    source, out = tmp_path / "k", tmp_path / "out"
    source.write_bytes(data)
    report = pydump.dump(source, out, compression="lzo")
    assert (report.unreadable_size, report.complete) == (4096, False)
    for path in (source, out):
        with pydump.open(path) as dump:
            assert list(dump.image.unreadable()) == [(3 * 4096, 4 * 4096)]
            assert all(dump.read(pfn * 4096, 4096) == hand.pages[pfn] for pfn in hand.pages if pfn != 3)
    found = pydump.verify(source)
    assert any("0x3000..0x4000" in fault for fault in found.faults)
    assert not found.ok


def test_the_missing_part_of_a_split_set_is_named(tmp_path: Path) -> None:
    parts = [write(tmp_path / f"p{i}", Hand(pages=PAGES, split=span)) for i, span in enumerate([(0, 5), (5, 4001)])]
    for kept, missing, pages in ((0, "0x5 to 0xfa1", (5, 4000)), (1, "0x0 to 0x5", (0, 1))):
        with pydump.open(parts[kept], arch="x86_64") as dump:
            assert any(f"the part with the pfns {missing} is missing" in line for line in dump.image.warnings())
            lost = dump.image.unreadable()
            assert all(bool(lost.clip(pfn * 4096, pfn * 4096 + 1)) == (pfn in pages) for pfn in PAGES)
            assert all(dump.read(pfn * 4096, 4096) == PAGES[pfn] for pfn in PAGES if pfn not in pages)
        assert pydump.dump(parts[kept], tmp_path / "out", force=True).unreadable_size == 8192


def test_a_part_that_lost_its_sub_header_keeps_the_others_readable(tmp_path: Path) -> None:
    first, second = (
        Path(write(tmp_path / f"p{i}", Hand(pages=PAGES, split=s))) for i, s in enumerate([(0, 5), (5, 4001)])
    )
    first.write_bytes(first.read_bytes()[:4100])
    with pydump.open(f"{first},{second}", arch="x86_64") as dump:
        assert dump.read(4000 * 4096, 4096) == PAGES[4000]
        assert list(dump.image.unreadable()) == [(0, 2 * 4096)]


def test_a_header_that_was_cut_is_an_error(tmp_path: Path) -> None:
    source = tmp_path / "k"
    source.write_bytes(Hand(pages=PAGES).build()[:300])
    with pytest.raises(FormatError, match="truncated or damaged"):
        pydump.open(source)
