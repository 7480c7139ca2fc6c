"""Reads the memory of a guest behind a gdb stub: ``pydump dmesg gdb:127.0.0.1:1234``."""

from __future__ import annotations

from collections.abc import Sequence

from pydump.hookspecs import hookimpl
from pydump.interfaces.source import Source
from pydump_source_gdb.source import GdbSource

__all__ = ["GdbSource"]


@hookimpl
def pydump_register_sources() -> Sequence[type[Source]]:
    """``gdb:HOST:PORT``."""
    return [GdbSource]
