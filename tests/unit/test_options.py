"""A plugin's options: what is declared, what is accepted, and what the refusal says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

import pydump
from pydump.errors import PlanError
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap
from pydump.options import NoOptions, OptionField, option, option_fields, with_values


@dataclass(frozen=True, slots=True)
class Sample:
    level: int = option(1, help="how hard", low=1, high=9)
    depth: int = option(0, help="how deep", low=0)
    any: int = option(5, help="any number", alias="--any-number")
    way: str = option("auto", help="which way", choices=("auto", "left"))
    path: str = option("", help="a path")
    fast: bool = option(False, help="hurry")


def test_fields_are_what_is_declared() -> None:
    assert option_fields(Sample)[:1] == (OptionField("level", int, 1, "how hard", 1, 9, (), None),)
    assert [(f.name, f.type, f.default) for f in option_fields(Sample)] == [
        ("level", int, 1), ("depth", int, 0), ("any", int, 5), ("way", str, "auto"), ("path", str, ""),
        ("fast", bool, False),
    ]  # fmt: skip
    assert option_fields(Sample)[2].alias == "--any-number"
    assert option_fields(Sample)[3].choices == ("auto", "left")
    assert option_fields(NoOptions) == ()


@dataclass(frozen=True, slots=True)
class Owned:
    owner: ClassVar[str] = "qemu"
    pause: str = option("auto", help="when", alias="--pause")
    dedup: bool | None = option(None, help="once", alias="--dedup/--no-dedup")
    sparse: bool = option(False, help="holes")


def test_a_flag_is_the_owner_and_the_field_beside_any_alias() -> None:
    assert [field.flags_of("qmp") for field in option_fields(Owned)] == [
        ("--pause", "--qemu-pause"),
        ("--dedup/--no-dedup", "--qemu-dedup/--no-qemu-dedup"),
        ("--qemu-sparse",),
    ]
    assert [field.flag_of("zlib") for field in option_fields(Sample)][:3] == [
        "--zlib-level",
        "--zlib-depth",
        "--any-number",
    ]


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"level": 1},
        {"level": 9, "depth": 1 << 70},
        {"any": -3},
        {"way": "left", "path": "x y", "fast": True},
    ],
)
def test_good_values_are_set_and_the_rest_is_kept(values: dict[str, Any]) -> None:
    before = Sample(depth=4)
    after = with_values("zlib", before, values)
    assert {name: getattr(after, name) for name in values} == values
    assert before == Sample(depth=4)
    assert after.depth == values.get("depth", 4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"level": 0}, "--zlib-level must be a whole number from 1 to 9, not 0"),
        ({"level": 10}, "--zlib-level must be a whole number from 1 to 9, not 10"),
        ({"level": "3"}, "--zlib-level must be a whole number from 1 to 9, not '3'"),
        ({"level": 1.0}, "--zlib-level must be a whole number from 1 to 9, not 1.0"),
        ({"level": True}, "--zlib-level must be a whole number from 1 to 9, not True"),
        ({"depth": -1}, "--zlib-depth must be a whole number from 0, not -1"),
        ({"any": "x"}, "--any-number must be a whole number, not 'x'"),
        ({"way": "right"}, "--zlib-way must be one of auto, left, not 'right'"),
        ({"way": []}, "--zlib-way must be one of auto, left, not []"),
        ({"path": 5}, "--zlib-path must be text, not 5"),
        ({"fast": 1}, "--zlib-fast must be true or false, not 1"),
        ({"speed": 1}, "zlib has no option 'speed'"),
    ],
)
def test_bad_values_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError) as caught:
        with_values("zlib", Sample(), values)
    assert caught.value.message == message


def test_a_plugin_without_options_says_so() -> None:
    with pytest.raises(PlanError, match="^lzo has no option 'level'; available: none"):
        with_values("lzo", NoOptions(), {"level": 1})


def test_options_for_a_source_that_is_open_come_too_late(tmp_path: Path) -> None:
    image = pydump.BytesImage(Guest(MemoryMap()), {0: bytes(4096)})
    with pytest.raises(PlanError, match="--pause is of source qmp, and the source is open already"):
        pydump.dump(image, tmp_path / "out", options={"qmp": {"pause": "full"}})
