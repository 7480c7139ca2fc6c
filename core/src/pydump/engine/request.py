"""What the user asks for when a dump is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydump.model.guest import Cpu
from pydump.model.plan import Compat
from pydump.model.vmcoreinfo import Vmcoreinfo


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asks for.

    Attributes:
        format: A format's name or alias.
        compression: A compressor's name, "none", or None for the format's first that is installed.
        arch: An architecture's name, which overrides what the source says.
        begin: The first paddr wanted, or None for all.
        length: Bytes wanted from ``begin`` on.
        vmcoreinfo: The text to write instead of the source's, "memory" for the one in guest memory, or None.
        no_vmcoreinfo: Write none, and look for none.
        cpus: CPUs whose notes are written instead of the source's, or None.
        paging: Give the segments the guest kernel's virtual addresses.
        compat: "qemu" to write what QEMU would.
        exclude: Classes of pages to leave out: "zero", and what the installed filters know.
        dump_level: The number that says so, for formats that record it; None to derive it from ``exclude``.
        filter_anyway: Leave pages out even where a filter's checks fail.
        ram_only: Leave out firmware and device memory.
        options: Options by plugin name, then by field.
    """

    format: str = "kdump"
    compression: str | None = None
    arch: str | None = None
    begin: int | None = None
    length: int | None = None
    vmcoreinfo: Vmcoreinfo | Literal["memory"] | None = None
    no_vmcoreinfo: bool = False
    cpus: tuple[Cpu, ...] | None = None
    paging: bool = False
    compat: Compat | None = None
    exclude: frozenset[str] = frozenset()
    dump_level: int | None = None
    filter_anyway: bool = False
    ram_only: bool = False
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
