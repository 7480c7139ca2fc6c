"""A flipped bit in a bitmap. Descriptors do not say whose they are: it moves the contents of all pages behind."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import pydump
from kdump_by_hand import Hand
from pydump.builtin.raw import BytesImage
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap, Ranges

PAGE = 4096
FACTS = Guest(MemoryMap.of([]), byte_order="little", elf_class=64)


def pages(n: int, seed: int) -> bytes:
    """Pages of text, each another."""
    return b"".join((b"page %d of %d. " % (i, seed) * 400)[:PAGE] for i in range(n))


#: Pages by number, with gaps that were left out, and a page of zeros that is stored raw.
PFNS = [*range(3, 40), *range(50, 120), *range(200, 260)]
CONTENTS = {pfn: pages(1, pfn) for pfn in PFNS}


def hand(order: str = "<", bits: int = 64, excluded: tuple[int, ...] = ()) -> Hand:
    return Hand(order=order, bits=bits, pages=dict(CONTENTS), excluded=excluded)


def flipped(made: Hand, which: tuple[int, ...], pfn: int, path: Path) -> Path:
    """The file with the bit of a page flipped in the bitmaps of these numbers."""
    data, (start, end) = bytearray(made.build()), made.regions()["bitmaps"]
    for number in which:
        data[start + number * (end - start) // 2 + pfn // 8] ^= 1 << pfn % 8
    path.write_bytes(data)
    return path


def held(image: object) -> dict[int, bytes]:
    """The pages that can be read, by number."""
    memory = image.guest().memory.ranges().subtract(image.excluded()).subtract(image.unreadable())  # type: ignore[attr-defined]
    found = {}
    for start, end in memory:
        buffer = bytearray(end - start)
        image.read_into(start, memoryview(buffer))  # type: ignore[attr-defined]
        found |= {(start + at) // PAGE: bytes(buffer[at : at + PAGE]) for at in range(0, len(buffer), PAGE)}
    return found


@pytest.mark.parametrize("pfn", [3, 39, 77, 119, 259])
@pytest.mark.parametrize(("order", "bits"), [("<", 64), (">", 64), ("<", 32), (">", 32)])
def test_a_page_that_the_2nd_bitmap_lacks_is_taken_from_the_1st(
    order: str, bits: int, pfn: int, tmp_path: Path
) -> None:
    damaged = flipped(hand(order, bits), (1,), pfn, tmp_path / "damaged")
    with pydump.open(damaged) as vmcore:
        assert held(vmcore.image) == CONTENTS
        assert any("the 2nd bitmap is damaged: the 1st is used" in line for line in vmcore.image.warnings())
    assert not pydump.verify(damaged, workers=1).ok


@pytest.mark.parametrize("pfn", [2, 45, 150])
def test_a_page_that_only_the_2nd_bitmap_has_is_left_out(pfn: int, tmp_path: Path) -> None:
    damaged = flipped(hand(excluded=(130, 140)), (1,), pfn, tmp_path / "damaged")
    with pydump.open(damaged) as vmcore:
        assert held(vmcore.image) == CONTENTS
        assert vmcore.image.excluded() == Ranges.of([(130 * PAGE, 131 * PAGE), (140 * PAGE, 141 * PAGE)])


@pytest.mark.parametrize(("which", "pfn"), [((0, 1), 39), ((1,), 77), ((1,), 130)])
def test_pages_are_lost_where_nothing_tells_whose_they_are(which: tuple[int, ...], pfn: int, tmp_path: Path) -> None:
    damaged = flipped(hand(excluded=(130, 140)), which, pfn, tmp_path / "damaged")
    with pydump.open(damaged) as vmcore:
        assert held(vmcore.image) == {}
        assert vmcore.image.unreadable()
        assert any("whose they are is lost" in line for line in vmcore.image.warnings())


class Filtered(BytesImage):
    """A guest of which pages were left out."""

    def excluded(self) -> Ranges:
        return Ranges.of([(64 * PAGE, 80 * PAGE)])


@pytest.mark.parametrize("which", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize("excludes", [False, True], ids=["whole", "filtered"])
def test_an_index_limits_the_damage_to_a_chunk(which: tuple[int, ...], excludes: bool, tmp_path: Path) -> None:
    """Two bitmaps of 512 KiB, in chunks of 16: the bit lies in the first, and pages of others stay right."""
    low, high = pages(64, 1), pages(64, 2)
    kind = Filtered if excludes else BytesImage
    source = kind(FACTS, {0: low + bytes(16 * PAGE), 1 << 33: high, 1 << 34: high[:PAGE]})
    path = tmp_path / "vmcore"
    pydump.dump(source, path, arch="x86_64", compression="none", no_vmcoreinfo=True, workers=1)
    with pydump.open(path) as vmcore:
        whole, headers = held(vmcore.image), vmcore.image._headers  # type: ignore[attr-defined]
    half = (headers.descs - headers.bitmaps) // 2
    with path.open("r+b") as file:
        for number in which:
            at = headers.bitmaps + number * half + 2
            byte = os.pread(file.fileno(), 1, at)[0]
            os.pwrite(file.fileno(), bytes([byte ^ 8]), at)
    with pydump.open(path) as vmcore:
        found, lost = held(vmcore.image), vmcore.image.unreadable()
        assert found.items() <= whole.items()
        if excludes and 1 in which:
            assert lost == Ranges.of([(0, (64 + 16) * PAGE)])
            assert set(found) == {pfn for pfn in whole if pfn >= 1 << 21}
        else:
            assert found == whole
            assert not lost
        assert vmcore.image.guest().memory.ranges() == source.guest().memory.ranges()


def test_sound_dumps_are_not_suspected(tmp_path: Path) -> None:
    draw = np.random.default_rng(5)
    for round_ in range(30):
        pfns = np.flatnonzero(draw.integers(0, 2, 300)).tolist()
        made = Hand(pages={pfn: pages(1, pfn) if draw.integers(0, 3) else bytes(PAGE) for pfn in pfns}, excluded=(301,))
        (tmp_path / "sound").write_bytes(made.build())
        with pydump.open(tmp_path / "sound") as vmcore:
            assert not any("bitmap" in line for line in vmcore.image.warnings()), round_
