"""What the user asks of a dump: the one declaration of its options.

The keywords of :func:`pydump.dump` and the flags of ``pydump dump`` are made from it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from pydump.model.guest import Cpu
from pydump.model.plan import Compat
from pydump.model.vmcoreinfo import Vmcoreinfo
from pydump.options import OptionField, option, option_fields

#: The format of an output whose name says nothing.
DEFAULT_FORMAT: Final = "kdump"
#: The algorithms with which an output is hashed.
Algorithm = Literal["sha256", "sha512"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user asks for. The help of a field says what it is for."""

    arch: str | None = option(
        None, panel="Input", metavar="NAME", help="The guest's architecture, instead of what the source says."
    )
    format: str | None = option(
        None,
        panel="Format and compression",
        metavar="NAME",
        help="A format's name, or QEMU's, such as kdump-lzo. Default: kdump, or the format whose name the output ends "
        "with, as vmcore.elf does.",
    )
    compression: str | None = option(
        None,
        panel="Format and compression",
        metavar="NAME",
        help="A compressor's name, or none. Default: the format's first.",
    )
    flatten: bool = option(False, panel="Format and compression", help="Write a flattened stream, as for a pipe.")
    split: int | None = option(
        None,
        panel="Output",
        metavar="N",
        help="Split the dump over N files: OUTPUT has %d for their number, or lists them with commas.",
    )
    hash: Algorithm | None = option(
        None, panel="Output", help="Hash the output, and write OUTPUT.sha256 for sha256sum -c."
    )
    hash_memory: bool = option(False, panel="Output", help="Hash guest memory. The hash does not depend on the format.")
    begin: int | None = option(None, panel="What to write", metavar="PADDR", help="Start at this address.")
    length: int | None = option(None, panel="What to write", metavar="SIZE", help="Write this many bytes.")
    workers: int | None = option(None, panel="Running", metavar="N", help="Worker processes. Default: the CPUs.")
    executor: str | None = option(
        None,
        panel="Running",
        metavar="NAME",
        help="Which workers do the work: local, local:N, or what a plugin offers, such as dask:local.",
    )
    max_rate: int | None = option(
        None,
        panel="Running",
        metavar="BYTES/S",
        help="Read guest memory no faster, such as 200M, and so write no faster. It does not apply while the guest "
        "is paused, or to what QEMU sends of a snapshot: the guest would wait.",
    )
    vmcoreinfo: Vmcoreinfo | Literal["memory"] | None = option(
        None,
        panel="Input",
        metavar="FILE",
        help="VMCOREINFO text to write instead of the source's; 'memory' for the one in guest memory.",
    )
    no_vmcoreinfo: bool = option(False, panel="What to write", help="Write no VMCOREINFO, not even one in memory.")
    cpus: Sequence[Cpu] | None = option(
        None, panel="Input", metavar="FILE", help="JSON with the registers of each CPU, instead of the source's."
    )
    paging: bool = option(False, panel="What to write", help="ELF only: give segments the kernel's virtual addresses.")
    dump_level: int | None = option(
        None,
        panel="Filter",
        metavar="N",
        alias="-d",
        help="Leave out pages, as makedumpfile numbers them: 1 zero, 2 cache, 4 cache with private data, 8 user, 16 "
        "free.",
    )
    exclude: Collection[str] = option(
        (), panel="Filter", metavar="CLASSES", help="Leave out pages of these classes, such as zero,free."
    )
    filter_anyway: bool = option(False, panel="Filter", help="Leave pages out even if the checks on them fail.")
    ram_only: bool = option(False, panel="What to write", help="Leave out firmware and device memory.")
    compat: Compat | None = option(None, panel="Format and compression", help="Write QEMU's bytes, defects included.")
    dry_run: bool = option(False, panel="Running", help="Show what would be done; write nothing.")
    force: bool = option(False, panel="Output", help="Replace an existing output.")
    resume: bool = option(
        False,
        panel="Output",
        help="Continue what an interrupted run of the same dump left in an object store. Ctrl-C on a run begun without "
        "this option removes what it has stored.",
    )
    sync: bool = option(True, panel="Output", help="Wait until the data is on the disk.")
    #: Options of plugins by their names, then by field: ``{"zlib": {"level": 6}}``.
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


#: Its fields that are flags.
OPTIONS: Final = tuple(declared for declared in option_fields(Request) if declared.panel)

_LINES = (f"        {declared.name}: {declared.help}\n" for declared in OPTIONS)
Request.__doc__ = f"{Request.__doc__}\n\n    Attributes:\n{''.join(_LINES)}"


def flags(declared: OptionField) -> tuple[str, ...]:
    """The flags of a field of :class:`Request`; that of one which is True by default denies it."""
    full = f"--{'no-' if declared.default is True else ''}{declared.name.replace('_', '-')}"
    return (full,) if declared.alias is None else (full, declared.alias)
