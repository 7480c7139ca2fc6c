"""The picture of the rooms shows the rooms that there are, and imports point down or to the right in it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

ROOT = Path(__file__).parents[2]
CODE = ROOT / "core" / "src" / "pydump"
sys.path.insert(0, str(ROOT / "docs" / "_ext"))

import rooms  # noqa: E402

#: Where each room is in the order of reading: left to right, then down.
PLACE = {name: number for number, (name, _) in enumerate(room for floor in rooms.FLOORS for room in floor)}
#: Modules that are no room: the entry point, what the rooms share, and the kit, which sees all of them.
BESIDE = {"__main__", "catalog", "hookspecs", "process", "signals", "testing", "templates"}


def imported(path: Path) -> Iterator[str]:
    """The rooms of pydump that a module imports, in functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        yield from (name.split(".")[1] for name in names if name.startswith("pydump."))


def test_every_room_is_in_the_picture() -> None:
    there = {module.name for module in iter_modules([str(CODE)])} - BESIDE
    assert there == set(PLACE)


def test_imports_point_down_or_to_the_right() -> None:
    up = []
    for room, place in PLACE.items():
        path = CODE / room
        for module in sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]:
            targets = {name for name in imported(module) if name in PLACE and name != room}
            up += [f"{module.relative_to(CODE)} imports {name}" for name in targets if PLACE[name] <= place]
    assert not up


def test_each_step_names_what_there_is() -> None:
    where = {"make_plan": "pydump.engine.planner", "Source": "pydump.interfaces.source"}
    where |= {"MemoryImage": "pydump.interfaces.image", "Sink": "pydump.interfaces.sink"}
    where |= {"Encoder": "pydump.interfaces.writer", "Placer": "pydump.interfaces.writer"}
    for step, _, _ in rooms.STEPS:
        name, _, method = step.partition(".")
        thing = getattr(import_module(where[name]), name)
        assert not method or hasattr(thing, method), step


def test_the_drawing_is_what_the_script_draws() -> None:
    assert (ROOT / "docs" / "explanation" / "rooms.svg").read_text() == rooms.draw()
