"""Errors keep their facts, also across processes."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from pydump import errors
from pydump.errors import (
    Cancelled,
    CompressionError,
    DamagedPageError,
    FormatError,
    PlanError,
    PluginError,
    PydumpError,
    ReadError,
    SinkError,
    SourceError,
    UnknownPluginError,
    UnsupportedError,
)

CASES: list[tuple[PydumpError, str, dict[str, Any], int]] = [
    (PydumpError("it broke"), "it broke", {}, 1),
    (PydumpError("it broke", hint="mend it"), "it broke; mend it", {"hint": "mend it", "message": "it broke"}, 1),
    (PlanError("no"), "no", {"hint": None}, 2),
    (UnsupportedError("not both"), "not both", {}, 2),
    (
        UnknownPluginError("compressor", "foo", ("lzo", "zlib"), hint="pip install pydump-compressor-foo"),
        "unknown compressor 'foo'; available: lzo, zlib; pip install pydump-compressor-foo",
        {"role": "compressor", "name": "foo", "known": ("lzo", "zlib")},
        2,
    ),
    (UnknownPluginError("arch", "vax", ()), "unknown arch 'vax'; available: none", {"known": ()}, 2),
    (PluginError("format-x", "no such hook"), "plugin format-x: no such hook", {"plugin": "format-x"}, 1),
    (SourceError("gone"), "gone", {}, 1),
    (
        ReadError(0x1000, 0x20, "end of file", hint="is it whole?"),
        "cannot read 0x20 bytes at paddr 0x1000: end of file; is it whole?",
        {"paddr": 0x1000, "size": 0x20},
        1,
    ),
    (DamagedPageError(0x1000, 0x1000, "cut"), "cannot read 0x1000 bytes at paddr 0x1000: cut", {"paddr": 0x1000}, 1),
    (FormatError("vmcore", "no header"), "vmcore: no header", {"path": "vmcore", "offset": None}, 1),
    (FormatError("vmcore", "bad", offset=4096), "vmcore at offset 0x1000: bad", {"offset": 4096}, 1),
    (CompressionError("zlib", "cut off"), "zlib: cut off", {"compressor": "zlib"}, 1),
    (SinkError("disk full"), "disk full", {}, 1),
    (Cancelled("interrupted"), "interrupted", {}, 130),
]


@pytest.mark.parametrize("way", [lambda e: e, copy.copy, lambda e: pickle.loads(pickle.dumps(e))])
@pytest.mark.parametrize(("error", "text", "facts", "exit_code"), CASES, ids=lambda value: type(value).__name__)
def test_an_error_says_its_facts(
    error: PydumpError, text: str, facts: dict[str, Any], exit_code: int, way: Any
) -> None:
    other = way(error)
    assert type(other) is type(error)
    assert str(other) == text
    assert {name: getattr(other, name) for name in facts} == facts
    assert other.exit_code == exit_code
    assert other.__dict__ == error.__dict__
    with pytest.raises(type(error)):
        raise other


def test_every_class_is_a_case() -> None:
    classes = {value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, PydumpError)}
    assert {type(error) for error, *_ in CASES} == classes


def test_notes_added_on_the_way_are_kept() -> None:
    error = SinkError("disk full")
    error.add_note("in worker 3")
    assert pickle.loads(pickle.dumps(error)).__notes__ == ["in worker 3"]
