"""Choosing pages of guests whose memory is damaged: nothing crashes, and what readers need is never left out.

``PYDUMP_TRIALS`` says how often each guest is damaged.
"""

from __future__ import annotations

import lzma
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pydump
from pydump.errors import PydumpError
from pydump.interfaces.arch import Arch
from pydump.interfaces.filter import Classified
from pydump.interfaces.image import MemoryImage
from pydump.model.guest import Guest
from pydump.model.memory import Ranges
from pydump.registry import installed
from pydump_filter_linux import LinuxFilter

pytestmark = pytest.mark.slow

DATA = Path(__file__).parents[3] / "tests/data/filtering"
TRIALS = int(os.environ.get("PYDUMP_TRIALS", "60"))
#: Marks of free pages, before and since Linux 6.12, as _mapcount holds them.
BUDDY = {"riscv64": 0xF0000000}
BUDDY_BEFORE = 0xFFFFFF7F


class Copied(MemoryImage):
    """Guest memory in this process, that can be damaged."""

    def __init__(self, source: MemoryImage) -> None:
        self._guest, self._excluded = source.guest(), source.excluded()
        self.held = self._guest.memory.ranges().subtract(self._excluded)
        self._starts = [start for start, _ in self.held]
        self.pieces = [bytearray(end - start) for start, end in self.held]
        for start, piece in zip(self._starts, self.pieces, strict=True):
            source.read_into(start, memoryview(piece))

    def guest(self) -> Guest:
        return self._guest

    def excluded(self) -> Ranges:
        return self._excluded

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        end = paddr + len(buffer)
        if self.held.clip(paddr, end).size != len(buffer):
            buffer[:] = bytes(len(buffer))
        for start, piece in zip(self._starts, self.pieces, strict=True):
            first, last = max(start, paddr), min(start + len(piece), end)
            if first < last:
                buffer[first - paddr : last - paddr] = memoryview(piece)[first - start : last - start]


class Example:
    """A guest, and how its memory is damaged and put right again."""

    def __init__(self, path: Path) -> None:
        with pydump.open(path) as dump:
            self.guest = dump.guest
            assert self.guest.arch and self.guest.page_size and self.guest.byte_order and self.guest.vmcoreinfo
            self.memory = Copied(dump.image)
        self.arch: type[Arch] = installed().arch(self.guest.arch)
        self.page_size = self.guest.page_size
        self.struct_page = self.guest.vmcoreinfo.size("page") or 64
        self.mapcount_at = self.guest.vmcoreinfo.offset("page._mapcount") or 0
        self.whole = self.classify()

    def classify(self) -> Classified:
        return LinuxFilter.classify(self.memory, self.guest, self.arch)

    def damage(self, dice: random.Random) -> Iterator[tuple[bytearray, int, bytes]]:
        """Damage memory, and yield each place with what was there."""
        for _ in range(dice.choice((1, 1, 2, 5, 20, 100, 500))):
            piece = dice.choice(self.memory.pieces)
            kind = dice.randrange(5)
            if kind == 0:  # a byte
                at, new = dice.randrange(len(piece)), dice.randbytes(1)
            elif kind == 1:  # a pointer, to anywhere near
                at = dice.randrange(len(piece)) & ~7
                new = (int.from_bytes(piece[at : at + 8], "little") ^ 1 << dice.randrange(48)).to_bytes(8, "little")
            elif kind == 2:  # a page of zeros, or of another page
                at = dice.randrange(len(piece)) // self.page_size * self.page_size
                other = dice.choice(self.memory.pieces)
                new = bytes(self.page_size) if dice.random() < 0.5 else bytes(other[: self.page_size])
            elif kind == 3:  # noise over a part of a page
                at, new = dice.randrange(len(piece)), dice.randbytes(dice.randrange(1, 512))
            else:  # what would be a free page, were it a struct page
                at = dice.randrange(len(piece)) // self.struct_page * self.struct_page + self.mapcount_at
                mark = BUDDY.get(self.guest.arch or "", BUDDY_BEFORE)
                new = mark.to_bytes(4, self.guest.byte_order or "little")
            new = new[: len(piece) - at]
            yield piece, at, bytes(piece[at : at + len(new)])
            piece[at : at + len(new)] = new


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Example]:
    """Gives the guest of an architecture."""
    directory = tmp_path_factory.mktemp("damaged")
    made: dict[str, Example] = {}

    def make(arch: str) -> Example:
        if arch not in made:
            path = directory / arch
            path.write_bytes(lzma.decompress((DATA / f"{arch}.kdump.xz").read_bytes()))
            made[arch] = Example(path)
        return made[arch]

    return make


@pytest.mark.parametrize("arch", ["ppc64", "i386", "riscv64", "s390x", "aarch64"])
def test_damaged_memory_never_loses_what_readers_need(arch: str, example: Callable[[str], Example]) -> None:
    guest = example(arch)
    passed = 0
    for seed in range(TRIALS):
        undo = []
        try:
            undo += guest.damage(random.Random(f"{arch}{seed}"))
            found = guest.classify()
        except PydumpError:
            continue
        finally:
            for piece, at, old in reversed(undo):
                piece[at : at + len(old)] = old
        if all(check.passed for check in found.checks):
            passed += 1
            for name, ranges in found.classes.items():
                lost = ranges.intersect(guest.whole.keep)
                assert not lost, f"seed {seed}: {name} has {lost}, and all checks passed"
    assert passed, "no damage was small enough"
    assert guest.classify() == guest.whole
