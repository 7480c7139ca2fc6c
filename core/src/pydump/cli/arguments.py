"""Arguments and options that several commands have, and what the shell completes."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

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


def completes(role: str) -> Callable[[str], list[str]]:
    """Completes the names that plugins have for ``role``."""

    def complete(incomplete: str) -> list[str]:
        from pydump.registry import installed

        registry = installed()
        # Aliases of architectures are for files that use them.
        offered = registry.names(role) if role == "arch" else registry.words(role)
        if role == "format":
            offered = tuple(word for word in offered if registry.format(word).format.writes())
        return [word for word in offered if word.startswith(incomplete)]

    return complete


Arch = Annotated[
    str | None,
    Option(
        "--arch",
        metavar="NAME",
        help="The guest's architecture, instead of what the source says.",
        autocompletion=completes("arch"),
    ),
]


def _note_json(value: bool) -> bool:
    """Note that errors are printed as JSON too."""
    session.json = session.json or value
    return value


Json = Annotated[bool, Option("--json", help="Print JSON.", callback=_note_json)]
Style = Annotated[ProgressStyle, Option("--progress", help="How to show progress on standard error.")]
Workers = Annotated[int | None, Option("--workers", metavar="N", help="Worker processes. Default: the CPUs.")]
Executor = Annotated[
    str | None,
    Option(
        "--executor",
        metavar="NAME",
        help="Which workers do the work: local, local:N, or what a plugin offers, such as dask:local.",
        autocompletion=completes("executor"),
    ),
]
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
