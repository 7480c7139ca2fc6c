"""The options of a dump are declared once: the command line, Python and the list of reserved flags follow."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any, Final

import pytest

import pydump
from pydump.cli.program import command_named
from pydump.model.request import Request

#: What has no flag: callbacks; and what is a flag of a plugin.
CALLBACKS: Final = {"progress", "reached", "options"}
#: What concerns the process of the command line alone.
OF_THE_COMMAND: Final = {"nice", "detach", "as_json", "progress", "verbose", "quiet", "context"}


def keywords() -> set[str]:
    """The keywords of :func:`pydump.dump`."""
    parameters = inspect.signature(pydump.dump).parameters.values()
    return {one.name for one in parameters if one.kind is one.KEYWORD_ONLY}


def test_each_field_is_a_keyword_and_a_flag() -> None:
    options = {param.name for param in command_named("dump").params if param.param_type_name == "option"}
    assert {field.name for field in fields(Request)} == keywords() - {"progress", "reached"}
    assert keywords() - CALLBACKS == options - OF_THE_COMMAND


def test_every_keyword_is_described() -> None:
    told = pydump.dump.__doc__ or ""
    assert [name for name in keywords() if f"\n        {name}: " not in told] == []
    assert "{" not in told.replace('{"zlib": {"level": 6}}', "")


def test_an_unknown_keyword_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^dump\(\) got an unexpected keyword argument 'dialect'"):
        pydump.dump("a", "b", dialect="elf")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        (["--begin", "0x1000"], "begin", 4096),
        (["--length", "4K"], "length", 4096),
        (["--max-rate", "2M/s"], "max_rate", 2 << 20),
        (["--vmcoreinfo", "memory"], "vmcoreinfo", "memory"),
        (["--exclude", "zero, cache"], "exclude", ["zero", "cache"]),
        (["-d", "31"], "dump_level", 31),
        (["--no-sync"], "sync", False),
        ([], "sync", True),
        (["--hash", "sha512"], "hash", "sha512"),
        (["--compat", "qemu"], "compat", "qemu"),
        ([], "format", None),
        ([], "exclude", ()),
    ],
)
def test_what_a_flag_says_reaches_its_field(words: list[str], field: str, value: Any) -> None:
    from pydump.cli.declared import asked

    with command_named("dump").make_context("dump", ["a", "b", *words]) as context:
        assert getattr(Request(**asked(context)), field) == value
