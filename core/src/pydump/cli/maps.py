"""Pictures of guest memory: in the terminal, and as SVG, HTML or PNG, all from one layout."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Final

from pydump.builtin.sinks import FileSink
from pydump.cli.console import visible
from pydump.cli.render import size
from pydump.engine.survey import OTHER
from pydump.errors import PlanError
from pydump.interfaces.sink import Extent
from pydump.model.findings import Cell, MapReport

#: Cells in a row of the terminal's map, of one that is wide enough, and of a picture; and rows at most.
COLUMNS: Final = {"terminal": 64, "picture": 128}
ROWS: Final = {"terminal": 32, "picture": 96}
#: Columns of the terminal that stand before the map: its address, and two blanks.
MARGIN: Final = 16

#: Upper ends of the classes that data is sorted into by what is left of it after compression, and their names.
CLASSES: Final = (
    (0.15, "data, compresses to under 15%"),
    (0.40, "data, to 40%"),
    (0.70, "data, to 70%"),
    (1.01, "data, hardly or not at all"),
)
ZERO, LEFT_OUT, LOST = "zero", "left out of the dump", "lost"


@dataclass(frozen=True, slots=True)
class Look:
    """How a kind of cell is shown.

    Attributes:
        colour: In a picture; colours differ in lightness too, for those who see no hue.
        glyph: In the terminal.
        plain: The same in ASCII.
        ansi: The same colour as an ANSI colour of the foreground.
    """

    colour: str
    glyph: str
    plain: str
    ansi: int


_ABSENT: Final = {LEFT_OUT: Look("#fdd49e", "-", "-", 33), LOST: Look("#d7301f", "!", "!", 91)}
_CONTENTS: Final = {
    ZERO: Look("#e4e7eb", "·", ".", 90),
    CLASSES[0][1]: Look("#9ecae1", "░", ":", 96),
    CLASSES[1][1]: Look("#4292c6", "▒", "+", 36),
    CLASSES[2][1]: Look("#08519c", "▓", "*", 34),
    CLASSES[3][1]: Look("#08204a", "█", "#", 94),
    **_ABSENT,
}
#: For classes of pages, in the order in which a filter has them.
_PALETTE: Final = (
    Look("#9ecae1", "c", "c", 96),
    Look("#4292c6", "p", "p", 36),
    Look("#74c476", "u", "u", 32),
    Look("#e4e7eb", "·", ".", 90),
    Look("#7a0177", "h", "h", 95),
    Look("#bdbdbd", "o", "o", 37),
)


def looks(report: MapReport) -> dict[str, Look]:
    """How each kind of cell of a map is shown, in the order of its legend."""
    if not report.classes:
        return _CONTENTS
    known = {name: _PALETTE[i % len(_PALETTE)] for i, name in enumerate(report.classes)}
    return {**known, OTHER: Look("#08204a", "█", "#", 94), **_ABSENT}


def across(width: int | None) -> int:
    """Cells in a row of the map on a terminal that is ``width`` columns wide: a power of two, for round addresses."""
    columns = COLUMNS["terminal"]
    while width is not None and columns > 8 and MARGIN + columns > width:
        columns //= 2
    return columns


def max_cells(where: str, columns: int | None = None) -> int:
    """Cells that a map has at most; ``where`` is "terminal" or "picture"."""
    return (columns or COLUMNS[where]) * ROWS[where]


def kind(cell: Cell) -> str:
    """What a cell is shown as: what most of it is; but what is lost is always shown."""
    if cell.unreadable_size:
        return LOST
    if cell.class_sizes:
        return max((*cell.class_sizes, (LEFT_OUT, cell.excluded_size)), key=lambda pair: pair[1])[0]
    if cell.excluded_size > max(cell.zero_size, cell.data_size):
        return LEFT_OUT
    if cell.ratio is None or cell.zero_size > cell.data_size:
        return ZERO
    ratio = cell.ratio
    return next(name for end, name in CLASSES if ratio < end)


def describe(cell: Cell) -> str:
    """A cell in one line."""
    parts = [
        f"{size(value)} {name}"
        for value, name in (
            (cell.zero_size, "zero"),
            (cell.data_size, "data"),
            (cell.excluded_size, "left out"),
            (cell.unreadable_size, "lost"),
        )
        if value
    ]
    parts += [f"{size(value)} {name}" for name, value in cell.class_sizes if value]
    ratio = f", compresses to {cell.ratio:.0%}" if cell.ratio is not None else ""
    return f"{cell.paddr:#x}: {', '.join(parts) or 'no memory'}{ratio}"


def rows(report: MapReport, columns: int) -> Iterator[tuple[int, list[Cell | None]]]:
    """``(paddr, cells)`` of each row that holds RAM; None where a cell holds none."""
    row_size = columns * report.cell_size
    for number, cells in groupby(report.cells, key=lambda cell: cell.paddr // row_size):
        row: list[Cell | None] = [None] * columns
        for cell in cells:
            row[cell.paddr % row_size // report.cell_size] = cell
        yield number * row_size, row


def totals(report: MapReport) -> list[tuple[str, str]]:
    """What the map adds up to."""
    ram = report.total("ram_size")
    lines = [("memory", f"{size(ram)} in {len(report.blocks)} block{'' if len(report.blocks) == 1 else 's'}")]
    for label, name in (
        ("zero", "zero_size"),
        ("data", "data_size"),
        ("left out", "excluded_size"),
        ("lost", "unreadable_size"),
    ):
        value = report.total(name)
        if value or label == "data":
            lines.append((label, f"{size(value)}, {value / max(1, ram):.0%}"))
    data = [(cell.data_size, cell.ratio) for cell in report.cells if cell.ratio is not None]
    whole = sum(n for n, _ in data)
    if whole:
        lines.append(("compresses", f"to about {sum(n * ratio for n, ratio in data) / whole:.0%} (zlib, a sample)"))
    for name in (*report.classes, OTHER) if report.classes else ():
        value = sum(dict(cell.class_sizes).get(name, 0) for cell in report.cells)
        if value:
            lines.append((name, f"{size(value)}, {value / max(1, ram):.0%}"))
    lines.append(("a cell", size(report.cell_size)))
    return lines


def terminal(report: MapReport, *, colour: bool, unicode: bool, columns: int = COLUMNS["terminal"]) -> Iterator[str]:
    """The map in lines, each of the address and ``columns`` cells."""
    shown = looks(report)
    glyphs = {name: look.glyph if unicode else look.plain for name, look in shown.items()}
    expected: int | None = None
    for paddr, cells in rows(report, columns):
        if expected is not None and paddr != expected:
            yield f"{'⋮' if unicode else '...':>14}"
        expected = paddr + columns * report.cell_size
        line = "".join(
            f"\x1b[{shown[kind_].ansi}m{glyph * n}\x1b[0m" if colour and kind_ else glyph * n
            for kind_, glyph, n in _runs(cells, glyphs)
        )
        yield f"{paddr:#14x}  {line}".rstrip()
    yield ""
    used = {kind(cell) for cell in report.cells}
    for name in shown:
        if name in used:
            glyph = f"\x1b[{shown[name].ansi}m{glyphs[name]}\x1b[0m" if colour else glyphs[name]
            yield f"  {glyph}  {name}"


def _runs(cells: list[Cell | None], glyphs: dict[str, str]) -> Iterator[tuple[str, str, int]]:
    for kind_, group in groupby(kind(cell) if cell else "" for cell in cells):
        yield kind_, glyphs.get(kind_, " "), len(list(group))


# Pictures.

SIDE: Final = 8
LEFT: Final = 150
TOP: Final = 56
LINE: Final = 18
INK: Final = "#1f2933"


@dataclass(frozen=True, slots=True)
class Box:
    """A filled rectangle; ``title`` is what it says when it is pointed at."""

    x: int
    y: int
    width: int
    height: int
    colour: str
    title: str = ""


@dataclass(frozen=True, slots=True)
class Text:
    """A line of text; ``y`` is its baseline."""

    x: int
    y: int
    text: str
    height: int = 12
    end: bool = False


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture, before it is drawn."""

    width: int
    height: int
    items: tuple[Box | Text, ...]


def scene(report: MapReport) -> Scene:
    """Lay the picture out: the map with addresses at its left, then legend and totals."""
    columns = COLUMNS["picture"]
    shown = looks(report)
    items: list[Box | Text] = [
        Text(16, 28, f"Guest memory of {visible(Path(report.path).name)}", 18),
        Text(16, 46, f"{report.arch or 'unknown architecture'}; a cell is {size(report.cell_size)}, "
             f"a row {size(columns * report.cell_size)}"),
    ]  # fmt: skip
    y, expected, named = TOP, None, -100
    for paddr, cells in rows(report, columns):
        if expected is not None and paddr != expected:
            items.append(Text(LEFT - 10, y + 13, f"no RAM for {size(paddr - expected)}", 11, end=True))
            y += LINE
            named = -100
        expected = paddr + columns * report.cell_size
        if y - named >= LINE:
            items.append(Text(LEFT - 10, y + SIDE, f"{paddr:#x}", 11, end=True))
            named = y
        items += [
            Box(LEFT + i * SIDE, y, SIDE - 1, SIDE - 1, shown[kind(cell)].colour, describe(cell))
            for i, cell in enumerate(cells)
            if cell is not None
        ]
        y += SIDE
    y += 16
    used = {kind(cell) for cell in report.cells}
    left = y
    for name, look in shown.items():
        if name in used:
            items += [Box(LEFT, left, 12, 12, look.colour), Text(LEFT + 20, left + 11, name)]
            left += LINE
    right = y
    for label, value in totals(report):
        items += [Text(LEFT + 420, right + 11, label), Text(LEFT + 520, right + 11, value)]
        right += LINE
    return Scene(LEFT + columns * SIDE + 16, max(left, right) + 12, tuple(items))


def svg(picture: Scene) -> str:
    """The picture as SVG; pointing at a cell says what it holds."""
    box = f'width="{picture.width}" height="{picture.height}"'
    view = f'viewBox="0 0 {picture.width} {picture.height}" font-family="sans-serif" fill="{INK}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {box} {view}>',
        f'<rect {box} fill="#ffffff"/>',
    ]
    for item in picture.items:
        if isinstance(item, Text):
            anchor = ' text-anchor="end"' if item.end else ""
            lines.append(
                f'<text x="{item.x}" y="{item.y}" font-size="{item.height}"{anchor}>{escape(item.text)}</text>'
            )
        else:
            title = f"<title>{escape(item.title)}</title>" if item.title else ""
            lines.append(
                f'<rect x="{item.x}" y="{item.y}" width="{item.width}" height="{item.height}" fill="{item.colour}">'
                f"{title}</rect>"
            )
    return "\n".join([*lines, "</svg>", ""])


def html(picture: Scene, title: str) -> str:
    """A page with the picture in it, and nothing from elsewhere."""
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8"/><title>{escape(title)}</title></head>\n'
        f"<body>\n{svg(picture)}</body>\n</html>\n"
    )


def save(report: MapReport, path: str, *, force: bool) -> None:
    """Write the picture to ``path``, in the form that its name says.

    Raises:
        PlanError: The name says no form, or the file is there.
        SinkError: It cannot be written.
    """
    form = check(path, force=force)
    picture = scene(report)
    if form == ".png":
        data = _png(picture)
    else:
        data = (svg(picture) if form == ".svg" else html(picture, f"Guest memory of {visible(report.path)}")).encode()
    sink = FileSink.open(path, force=force)
    try:
        sink.write(Extent(0, data))
    except BaseException:
        sink.abort()
        raise
    sink.commit(len(data))


def check(path: str, *, force: bool) -> str:
    """The form that a picture's name says, before any work is done for it.

    Raises:
        PlanError: It says none, the file is there, or what draws it is missing.
    """
    form = os.path.splitext(path)[1].lower()
    if form not in (".png", ".svg", ".html"):
        raise PlanError(f"{path} does not say what kind of picture", hint="end its name with .png, .svg or .html")
    if os.path.isdir(path):
        raise PlanError(f"{path} is a directory", hint="name a file in it")
    if os.path.lexists(path) and not force:
        raise PlanError(f"{path} exists", hint="choose another name, or replace it with --force")
    if form == ".png":
        try:
            import PIL.ImageFont  # noqa: F401
        except ImportError:
            raise PlanError("a PNG needs Pillow", hint="pip install 'pydump-core[map]', or write .svg") from None
    return form


def _png(picture: Scene) -> bytes:
    import io

    from PIL import Image, ImageDraw, ImageFont

    scale = 2  # for screens with fine pixels
    image = Image.new("RGB", (picture.width * scale, picture.height * scale), "#ffffff")
    draw = ImageDraw.Draw(image)
    for item in picture.items:
        if isinstance(item, Text):
            font = ImageFont.load_default(item.height * scale)
            place = (item.x * scale, item.y * scale)
            draw.text(place, item.text, fill=INK, font=font, anchor="rs" if item.end else "ls")
        else:
            corner = (item.x * scale, item.y * scale)
            opposite = ((item.x + item.width) * scale - 1, (item.y + item.height) * scale - 1)
            draw.rectangle([corner, opposite], fill=item.colour)
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()
