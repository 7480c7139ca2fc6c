"""Captures the memory of a running QEMU guest: ``pydump dump qmp:/run/vm.sock vmcore``."""

from __future__ import annotations

from collections.abc import Sequence

from pydump.hookspecs import hookimpl
from pydump.interfaces.source import Source
from pydump_source_qemu.source import QemuSource

__all__ = ["QemuSource"]


@hookimpl
def pydump_register_sources() -> Sequence[type[Source]]:
    """``qmp:SOCKET``."""
    return [QemuSource]
