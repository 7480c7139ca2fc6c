"""The options of a guest behind a gdb stub."""

from __future__ import annotations

from dataclasses import dataclass

from pydump.options import option


@dataclass(frozen=True, slots=True)
class GdbOptions:
    """How a guest behind a gdb stub is read, and left."""

    ram: str = option(
        "",
        help="where the guest has RAM, as 0-3G,4G-5G; where the stub does not say",
        metavar="START-END,…",
    )
    linear: str = option(
        "",
        help="where the kernel maps all RAM, as 0xffff888000000000@0; for a stub that reads virtual memory alone",
        metavar="VADDR@PADDR",
    )
    after: str = option(
        "auto",
        help="whether the guest runs afterwards; auto is as it did before, and run where the stub does not say",
        choices=("auto", "run", "pause"),
    )
