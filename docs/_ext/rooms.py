"""Draws the picture of the rooms: ``python docs/_ext/rooms.py`` writes ``docs/explanation/rooms.svg``.

The floors below are the layers that import-linter checks. ``tests/docs/test_architecture.py`` compares them with the
imports of the code, and the drawing with this file.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Final

#: The rooms from top to bottom, each with what it does. A room imports only rooms below it or to the right.
FLOORS: Final = (
    (("cli", "commands, options, progress, tables"),),
    (("api", "pydump.dump, open, verify, compare"),),
    (("engine", "facts, plan, batches, executors, scans"),),
    (("registry", "plugins by role and name"), ("plugins", "finds plugins, records broken ones")),
    (("builtin", "files, descriptors, raw memory, packed input"),),
    (("kernel", "the Linux kernel: memory, struct pages, log"),),
    (("interfaces", "what plugins implement, one file per role"),),
    (("layout", "on-disk structs as data"), ("model", "values: guest, memory map, plan, report")),
    (("options", "options of plugins"), ("errors", "errors, with exit codes")),
)
#: The way of a page: the step, what it does, and whether a plugin takes it.
STEPS: Final = (
    ("Source.open", "a name becomes an image", True),
    ("make_plan", "what is read, left out, written", False),
    ("MemoryImage.read_runs", "4 MiB of guest memory", True),
    ("Encoder.encode", "pages become bytes, anywhere", True),
    ("Placer.place", "offsets, in order, in one place", True),
    ("Sink.write", "Extent(offset, data)", True),
)
WIDTH, HEIGHT, GAP, LEFT = 580, 48, 12, 20
STEP_LEFT, STEP_WIDTH = 650, 260


def draw() -> str:
    """The picture as SVG."""
    top = 56
    height = top + len(FLOORS) * (HEIGHT + GAP) + 38
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {STEP_LEFT + STEP_WIDTH + 20} {height}" role="img">',
        '<g font-family="sans-serif">',
        "<title>The rooms of pydump and the way of a page</title>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">',
        '<path d="M0 0L8 4L0 8z" fill="#555"/></marker></defs>',
        f'<rect width="{STEP_LEFT + STEP_WIDTH + 20}" height="{height}" fill="#fff"/>',
        _text(LEFT, 34, "Rooms: imports point down, or to the right", 16, bold=True),
        _text(STEP_LEFT, 34, "The way of a page", 16, bold=True),
    ]
    for number, rooms in enumerate(FLOORS):
        y = top + number * (HEIGHT + GAP)
        width = (WIDTH - GAP * (len(rooms) - 1)) / len(rooms)
        for column, (name, what) in enumerate(rooms):
            x = LEFT + column * (width + GAP)
            fill = "#fdf1d6" if name in ("interfaces", "kernel", "layout", "model", "options", "errors") else "#e3edf7"
            parts.append(_box(x, y, width, HEIGHT, fill))
            parts.append(_text(x + 12, y + 20, name, 14, bold=True))
            parts.append(_text(x + 12, y + 38, what, 13))
    parts.append(
        _text(LEFT, height - 16, "Plugins import the yellow rooms and no other. Plugins take the green steps.", 13)
    )
    pitch = (len(FLOORS) - 1) * (HEIGHT + GAP) / (len(STEPS) - 1)
    for number, (name, what, plugin) in enumerate(STEPS):
        y = top + number * pitch
        parts.append(_box(STEP_LEFT, y, STEP_WIDTH, HEIGHT, "#e4f2e2" if plugin else "#e3edf7"))
        parts.append(_text(STEP_LEFT + 12, y + 20, name, 13, bold=True))
        parts.append(_text(STEP_LEFT + 12, y + 38, what, 13))
        if number:
            middle = STEP_LEFT + STEP_WIDTH / 2
            line = f'x1="{middle}" y1="{y - pitch + HEIGHT}" x2="{middle}" y2="{y - 2}"'
            parts.append(f'<line {line} stroke="#555" stroke-width="1.5" marker-end="url(#head)"/>')
    parts.append("</g></svg>")
    return "\n".join(parts) + "\n"


def _box(x: float, y: float, width: float, height: float, fill: str) -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5" fill="{fill}" stroke="#8a97a5"/>'


def _text(x: float, y: float, text: str, size: int, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}"{weight} fill="#222">{escape(text)}</text>'


if __name__ == "__main__":
    (Path(__file__).parents[1] / "explanation" / "rooms.svg").write_text(draw())
