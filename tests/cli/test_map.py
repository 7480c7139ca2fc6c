"""The map of guest memory: its cells on a guest with known regions, and each picture of it."""

from __future__ import annotations

import io
import json
import random
import struct
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pydump
from pydump.cli import maps
from pydump.model.findings import MapReport
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap, Ranges

Run = Callable[..., Any]
CELL = 64 << 10
HIGH = 1 << 32
#: What is in each cell from 0 on, and from HIGH on: zero, text, random, or half of it each.
LOW_CELLS = "zttrrzzh"
HIGH_CELLS = "rz"


def contents(letters: str) -> bytes:
    dice = random.Random(1)
    text = b"All work and no play makes Jack a dull boy.\n" * (CELL // 44 + 1)
    made = {
        "z": lambda: bytes(CELL),
        "t": lambda: text[:CELL],
        "r": lambda: dice.randbytes(CELL),
        "h": lambda: bytes(CELL * 3 // 4) + dice.randbytes(CELL // 4),
    }
    return b"".join(made[letter]() for letter in letters)


class Known(pydump.BytesImage):
    """The guest; some of it was left out, and some is lost."""

    def __init__(self) -> None:
        facts = Guest(MemoryMap.of([]), machine=62, byte_order="little", elf_class=64)
        super().__init__(facts, {0: contents(LOW_CELLS), HIGH: contents(HIGH_CELLS)})

    def excluded(self) -> Ranges:
        return Ranges.of([(6 * CELL, 7 * CELL)])

    def unreadable(self) -> Ranges:
        return Ranges.of([(HIGH + CELL, HIGH + CELL + 4096)])


#: What each cell is shown as.
#: How kinds of contents are shown.
LOOKS = maps.looks(MapReport("", None, 1, (), ()))

EXPECTED = {
    0: maps.ZERO,
    CELL: maps.CLASSES[0][1],
    2 * CELL: maps.CLASSES[0][1],
    3 * CELL: maps.CLASSES[3][1],
    4 * CELL: maps.CLASSES[3][1],
    5 * CELL: maps.ZERO,
    6 * CELL: maps.LEFT_OUT,
    7 * CELL: maps.ZERO,
    HIGH: maps.CLASSES[3][1],
    HIGH + CELL: maps.LOST,
}


@pytest.fixture
def report() -> MapReport:
    return pydump.survey(Known(), max_cells=10, workers=1)


def test_each_cell_is_what_lies_there(report: MapReport) -> None:
    assert report.cell_size == CELL
    assert {cell.paddr: maps.kind(cell) for cell in report.cells} == EXPECTED
    half = report.cells[7]
    assert (half.zero_size, half.data_size) == (CELL * 3 // 4, CELL // 4)
    assert half.ratio is not None and half.ratio > 0.99
    assert report.cells[1].ratio is not None and report.cells[1].ratio < 0.05
    assert report.cells[9].unreadable_size == 4096
    assert report.total("ram_size") == 10 * CELL
    assert report.total("excluded_size") == CELL
    assert sum(report.total(n) for n in ("zero_size", "data_size", "excluded_size", "unreadable_size")) == 10 * CELL


def test_ram_in_the_upper_half_of_the_address_space() -> None:
    """Addresses that no signed number holds."""
    facts = Guest(MemoryMap.of([]), machine=62, byte_order="little", elf_class=64)
    places = (0, (1 << 63) - CELL, 1 << 63, (1 << 64) - 2 * CELL)
    source = pydump.BytesImage(facts, {paddr: contents("z") for paddr in places})
    cells = pydump.survey(source, max_cells=4, workers=1).cells
    assert [(cell.paddr, cell.zero_size) for cell in cells] == [(paddr, CELL) for paddr in places]


def test_any_number_of_workers_sees_the_same(tmp_path: Path) -> None:
    (tmp_path / "ram").write_bytes(contents("rztzhhtr" * 32))
    one, three = (pydump.survey(f"raw:{tmp_path}/ram@1M", max_cells=99, workers=n) for n in (1, 3))
    assert one == three
    assert len(one.cells) <= 99


def test_cells_grow_with_the_guest() -> None:
    sizes = [pydump.survey(Known(), max_cells=n, workers=1).cell_size for n in (10, 9, 4, 2)]
    assert sizes == [CELL, 2 * CELL, 4 * CELL, 8 * CELL]


def test_the_terminal(report: MapReport) -> None:
    lines = list(maps.terminal(report, colour=False, unicode=True))
    assert lines[0] == f"{'0x0':>14}  ·░░██·-·"
    assert lines[1].strip() == "⋮"
    assert lines[2] == f"{'0x100000000':>14}  █!"
    plain = list(maps.terminal(report, colour=False, unicode=False))
    assert plain[0] == f"{'0x0':>14}  .::##.-."
    assert "".join(plain).isascii()
    assert not any("\x1b" in line for line in lines)
    coloured = list(maps.terminal(report, colour=True, unicode=True))
    assert f"\x1b[{LOOKS[maps.LOST].ansi}m!\x1b[0m" in coloured[2]
    assert all(len(line) <= 80 for line in lines)


def test_a_narrow_terminal() -> None:
    assert [maps.across(n) for n in (None, 200, 80, 79, 48, 47, 40, 32, 31, 10)] == [
        64,
        64,
        64,
        32,
        32,
        16,
        16,
        16,
        8,
        8,
    ]
    report = pydump.survey(Known(), max_cells=10, workers=1)
    lines = list(maps.terminal(report, colour=False, unicode=True, columns=4))
    assert lines[:2] == [f"{'0x0':>14}  ·░░█", f"{'0x40000':>14}  █·-·"]


def boxes(root: ET.Element) -> dict[str, str]:
    """The colour of each cell of an SVG, by the address in its title."""
    svg = "{http://www.w3.org/2000/svg}"
    found = {}
    for rect in root.iter(f"{svg}rect"):
        title = rect.find(f"{svg}title")
        if title is not None and title.text:
            found[title.text.split(":")[0]] = rect.attrib["fill"]
    return found


@pytest.mark.parametrize("form", ["svg", "html"])
def test_vector_pictures(form: str, report: MapReport, tmp_path: Path) -> None:
    path = tmp_path / f"map.{form}"
    maps.save(report, str(path), force=False)
    text = path.read_text()
    root = ET.fromstring(text.removeprefix("<!DOCTYPE html>"))
    assert boxes(root) == {f"{paddr:#x}": LOOKS[kind].colour for paddr, kind in EXPECTED.items()}
    assert "no RAM for 4.0 GiB" in text
    assert "http://www.w3.org/2000/svg" in text and text.count("http") == 1  # nothing comes from elsewhere
    assert path.stat().st_mode & 0o777 == 0o600


def test_png(report: MapReport, tmp_path: Path) -> None:
    from PIL import Image

    maps.save(report, str(tmp_path / "map.png"), force=False)
    data = (tmp_path / "map.png").read_bytes()
    (width, height) = struct.unpack(">II", data[16:24])
    picture = maps.scene(report)
    assert (width, height) == (2 * picture.width, 2 * picture.height)
    image = Image.open(io.BytesIO(data)).convert("RGB")
    for i, kind in enumerate(list(EXPECTED.values())[:8]):
        at = (2 * (maps.LEFT + i * maps.SIDE) + 6, 2 * maps.TOP + 6)
        assert "#{:02x}{:02x}{:02x}".format(*image.getpixel(at)) == LOOKS[kind].colour


def test_the_command(qemu: Callable[[str, str], Path], run: Run, refuse: Callable[..., str], tmp_path: Path) -> None:
    elf = qemu("linux-x86_64", "elf")
    shown = run("map", elf)
    assert shown.code == 0
    assert shown.out.splitlines()[0].startswith("           0x0  ")
    assert "\nmemory        " in shown.out
    told = json.loads(run("map", elf, "--json").out)
    assert sum(cell["ram_size"] for cell in told["cells"]) == sum(size for _, size in told["blocks"])
    assert run("map", elf, "-o", "picture.svg").out.startswith("wrote         picture.svg\n")
    before = (tmp_path / "picture.svg").read_bytes()
    assert "picture.svg exists" in refuse(2, "map", elf, "-o", "picture.svg")
    assert (tmp_path / "picture.svg").read_bytes() == before
    assert "end its name with" in refuse(2, "map", elf, "-o", "picture.bmp")
    assert "No such file" in refuse(1, "map", elf, "-o", "nowhere/picture.svg")
