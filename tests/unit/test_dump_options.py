"""The options of a dump are the same on the command line, in Python, and in a batch, which takes command lines."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from typing import Final

import pydump
from pydump.cli.program import command_named
from pydump.engine.outputs import Output
from pydump.engine.request import Request

#: What has no flag: callbacks; and what is a flag of a plugin.
CALLBACKS: Final = {"progress", "reached", "options"}
#: What concerns the process of the command line alone.
OF_THE_COMMAND: Final = {"nice", "detach", "json", "progress", "verbose", "quiet", "help"}


def keywords() -> set[str]:
    """The keywords of :func:`pydump.dump`."""
    parameters = inspect.signature(pydump.dump).parameters.values()
    return {one.name for one in parameters if one.kind is one.KEYWORD_ONLY}


def flags() -> set[str]:
    """The flags of ``pydump dump`` that are not a plugin's, as keywords: ``--no-sync`` is ``sync``."""
    command = command_named("dump")
    longest = (max(param.opts, key=len) for param in command.params if param.param_type_name == "option")
    names = {flag.removeprefix("--").replace("-", "_") for flag in longest}
    return {"sync" if name == "no_sync" else name for name in names}


def test_every_keyword_has_a_flag_and_every_flag_a_keyword() -> None:
    assert keywords() - CALLBACKS == flags() - OF_THE_COMMAND


def test_what_says_how_a_dump_is_written_has_a_keyword() -> None:
    declared = {field.name for cls in (Request, Output) for field in fields(cls)} - {"target"}
    assert declared <= keywords()


def test_every_keyword_is_described() -> None:
    described = set(re.findall(r"^ {8}(\w+): ", pydump.dump.__doc__ or "", re.MULTILINE))
    assert keywords() <= described
