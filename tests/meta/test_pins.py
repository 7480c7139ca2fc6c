"""constraints.txt: versions that hold for every Python that pydump runs with."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, metadata

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from scripts import ROOT, script

LINES = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
PINS = {canonicalize_name(line.partition("==")[0]): line for line in LINES}


def version(line: str) -> str:
    return line.partition("==")[2].partition("  #")[0]


def requires_python(line: str) -> SpecifierSet:
    """What stands beside a pin; nothing stands beside a version that says nothing."""
    return SpecifierSet(line.partition("  # ")[2])


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.partition("==")[0])
def test_a_pin_holds_for_every_python(line: str) -> None:
    assert re.fullmatch(r"[\w.-]+==[\w.]+(  # .+)?", line)
    for python in ("3.11.0", "3.11.2", "3.12.0", "3.13.0", "3.14.0"):
        assert requires_python(line).contains(python), "scripts/pin finds a version that holds"


def test_what_stands_beside_a_pin_is_what_the_package_says() -> None:
    checked = set()
    for name, line in PINS.items():
        try:
            said = metadata(name)
        except PackageNotFoundError:  # a tool of the documentation, or what is built, without a compiler
            continue
        if said["Version"] == version(line):
            assert SpecifierSet(said.get("Requires-Python", "")) == requires_python(line), name
            checked.add(name)
    assert {"numpy", "pytest", "typer"} <= checked


def test_everything_that_is_needed_is_pinned() -> None:
    for text in script("pin").requirements():
        requirement = Requirement(text)
        pin = PINS.get(canonicalize_name(requirement.name))
        assert pin, f"{text} has no pin: run scripts/pin"
        assert requirement.specifier.contains(version(pin), prereleases=True), f"{text} is pinned as {pin}"
