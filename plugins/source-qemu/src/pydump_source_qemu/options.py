"""The options of a capture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pydump.options import option


@dataclass(frozen=True, slots=True)
class QemuOptions:
    """How a guest is captured."""

    #: Its options are known by QEMU's name, not by that of its protocol.
    owner: ClassVar[str] = "qemu"

    access: str = option(
        "auto",
        help="the way to guest memory",
        choices=("auto", "shared", "process", "stream"),
    )
    pause: str = option(
        "auto",
        help="when the guest is paused; auto is copy if there is room, else full",
        choices=("auto", "copy", "snapshot", "full", "none"),
        alias="--pause",
    )
    scratch: str = option(
        "", help="keep the copy of guest memory in DIR instead of RAM", alias="--scratch", metavar="DIR"
    )
    timeout: float | None = option(
        None,
        help="give up if the guest would be paused for longer",
        low=0.001,
        high=86400,
        alias="--timeout",
        metavar="SECONDS",
    )
    memory_limit: int | None = option(
        None, help="the copy may take so much memory", low=1, alias="--memory-limit", metavar="MIB"
    )
    connect_timeout: int = option(
        10,
        help="seconds to wait for the monitor",
        low=1,
        high=3600,
        alias="--connect-timeout",
        metavar="SECONDS",
    )
