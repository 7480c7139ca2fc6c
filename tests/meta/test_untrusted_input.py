"""The table of untrusted input is true: what checks, and the tests that show it, exist; no reader is missing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/reference/untrusted-input.md"
SECURITY = ROOT / "docs/explanation/security.md"
#: What turns bytes or text from outside into numbers.
UNPACKS = re.compile(r"\.unpack\(|unpack_from|np\.frombuffer|json\.loads?\(|tomllib|int\.from_bytes")
#: Unpack only what pydump itself has just made.
OWN = {"pydump.cli.watch", "pydump_format_kdump.dedup", "pydump_format_kdump.encoder"}


def rows() -> Iterator[tuple[str, str, str, str]]:
    """What, where it is checked, how, and what shows it."""
    for line in PAGE.read_text().splitlines():
        if line.startswith("|") and not line.startswith(("|---", "| what |")):
            what, where, how, shown = (cell.strip() for cell in line.strip("|").split("|"))
            yield what, where.strip("`"), how, shown.strip("`")


def found(name: str) -> object:
    """What a dotted name names: a module, or something in one."""
    module = name
    members: list[str] = []
    while True:
        try:
            thing: object = import_module(module)
            break
        except ModuleNotFoundError:
            module, _, member = module.rpartition(".")
            assert module, name
            members.insert(0, member)
    for member in members:
        thing = getattr(thing, member)
    return thing


@cache
def text_of(path: str) -> str:
    return (ROOT / path).read_text()


@pytest.mark.parametrize("where", sorted({where for _, where, _, _ in rows()}))
def test_what_checks_exists(where: str) -> None:
    assert found(where)


@pytest.mark.parametrize("shown", sorted({shown for _, _, _, shown in rows()}))
def test_what_shows_it_exists(shown: str) -> None:
    path, _, name = shown.partition("::")
    assert (ROOT / path).is_file()
    assert re.search(rf"^ *def {re.escape(name)}\(", text_of(path), re.M), f"{path} has no {name}"


def test_every_row_is_complete() -> None:
    every = list(rows())
    assert len(every) > 60
    assert [row for row in every if not all(row)] == []


def test_every_module_that_unpacks_bytes_is_named() -> None:
    named = {where for _, where, _, _ in rows()}
    missing = []
    for folder in (ROOT / "core/src", *ROOT.glob("plugins/*/src")):
        for path in folder.rglob("*.py"):
            module = ".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(".__init__")
            if module.startswith(("pydump.testing", "pydump.templates")) or module in OWN:
                continue
            told = any(name == module or name.startswith(f"{module}.") for name in named)
            if UNPACKS.search(path.read_text()) and not told:
                missing.append(module)
    assert missing == [], (
        f"each needs a row in {PAGE.relative_to(ROOT)}: what it reads, and which test shows its bounds"
    )


def test_every_environment_variable_is_named() -> None:
    read = set()
    for path in (*(ROOT / "core/src").rglob("*.py"), *ROOT.glob("plugins/*/src/*/*.py")):
        read |= set(re.findall(r"os\.(?:environ\.get|getenv)\(\"([A-Z_]+)\"", path.read_text()))
    assert "TMPDIR" in read
    assert sorted(name for name in read if f"`{name}`" not in PAGE.read_text()) == []


def test_what_the_promises_name_exists() -> None:
    named = re.findall(r"`((?:tests|plugins)/[^`]+)`", SECURITY.read_text())
    assert len(named) > 10
    assert [path for path in named if not (ROOT / path).exists()] == []
