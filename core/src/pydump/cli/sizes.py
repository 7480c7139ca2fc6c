"""Shows what each dump level would leave of a guest."""

from __future__ import annotations

from typing import Final

from pydump.cli import render
from pydump.cli.console import line
from pydump.model.findings import LevelSize, SizeReport

#: The levels that the table shows: each bit alone, and all together. JSON has all 32.
SHOWN: Final = (0, 1, 2, 4, 8, 16, 31)


def show(report: SizeReport) -> None:
    """A table of levels, the classes of pages below it, and which checks failed."""
    rows = [_row(level) for level in report.levels if level.level in SHOWN]
    render.grid(("level", "leaves out", "pages left", "size", "compressed, about"), rows, named=True)
    line()
    classes = [(name, render.size(size)) for name, size in report.classes if size]
    render.table([("memory", render.size(report.ram_size)), *classes])
    failed = [f"{check.name}: {check.detail}" for check in report.checks if not check.passed]
    render.table([("check failed" if i == 0 else "", detail) for i, detail in enumerate(failed)])


def _row(level: LevelSize) -> tuple[str, str, str, str, str]:
    dropped = ", ".join(level.classes) or "nothing"
    return str(level.level), dropped, str(level.pages), render.size(level.size), render.size(level.packed_size)
