"""Opens the guest behind a gdb stub."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydump.interfaces.source import Source
from pydump_source_gdb.options import GdbOptions

if TYPE_CHECKING:
    from pydump_source_gdb.live import GdbGuest


class GdbSource(Source):
    """``gdb:HOST:PORT`` or ``gdb:SOCKET``: the guest behind a gdb stub."""

    name: ClassVar[str] = "gdb"
    Options: ClassVar[type] = GdbOptions
    options_for_reading: ClassVar[bool] = True

    @classmethod
    def open(cls, argument: str, options: Any = None) -> GdbGuest:
        from pydump_source_gdb.live import GdbGuest
        from pydump_source_gdb.session import Session

        return GdbGuest(Session(argument, options or GdbOptions()))
