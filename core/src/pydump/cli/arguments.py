"""Arguments and options that several commands have."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from pydump.cli.declared import flag
from pydump.cli.session import session


class ProgressStyle(StrEnum):
    """How progress is shown on standard error."""

    auto = "auto"
    bar = "bar"
    plain = "plain"
    json = "json"
    none = "none"


class MapBy(StrEnum):
    """What a map shows."""

    content = "content"
    page_class = "class"


Arch = Annotated[str | None, flag("arch")]


def _note_json(value: bool) -> bool:
    """Note that errors are printed as JSON too."""
    session.json = session.json or value
    return value


Json = Annotated[bool, Option("--json", help="Print JSON.", callback=_note_json)]
Style = Annotated[ProgressStyle, Option("--progress", help="How to show progress on standard error.")]
Workers = Annotated[int | None, flag("workers")]
Executor = Annotated[str | None, flag("executor")]
SourceArg = Annotated[
    str,
    Argument(
        metavar="SOURCE",
        help="A vmcore, parts of one separated by commas, '-', raw:PATH[OFFSET:SIZE]@PADDR[,…] for bare memory (all "
        "of the file, or SIZE bytes from OFFSET on), or qmp:SOCKET or qmp:HOST:PORT for a guest that runs under QEMU.",
    ),
]
Vmlinux = Annotated[
    Path | None,
    Option("--vmlinux", metavar="FILE", help="The kernel's vmlinux with symbols, from the same build as the guest's."),
]
SourcesArg = Annotated[
    list[str],
    Argument(
        metavar="SOURCE…",
        help="One or more vmcores. Each may be parts of one separated by commas, '-', "
        "raw:PATH[OFFSET:SIZE]@PADDR or qmp:SOCKET.",
    ),
]
