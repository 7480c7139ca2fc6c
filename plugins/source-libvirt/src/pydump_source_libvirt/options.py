"""The options of a capture."""

from __future__ import annotations

from dataclasses import dataclass

from pydump.options import option


@dataclass(frozen=True, slots=True)
class LibvirtOptions:
    """How a domain is captured."""

    pause: str = option(
        "auto",
        help="when the domain is paused; auto is snapshot if the domain runs and QEMU can take one, else copy",
        choices=("auto", "snapshot", "copy", "full", "none"),
    )
