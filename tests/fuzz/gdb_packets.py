"""What a gdb stub sends: packets, and the text of QEMU's monitor in them."""

from __future__ import annotations

import contextlib
import socket

from pydump_source_gdb.keeper import monitor
from pydump_source_gdb.openocd import numbers
from pydump_source_gdb.ram import flat_view_ram
from pydump_source_gdb.wire import Wire, WireError

#: Fewer than a socket holds, so that all is sent before anything is read.
MOST = 100_000


def one(data: bytes) -> None:
    """Read it as packets, and as the answers of a monitor."""
    for listen in (_packets, _monitor):
        ours, theirs = socket.socketpair()
        with ours, theirs, contextlib.suppress(WireError):
            theirs.sendall(data[:MOST])
            theirs.shutdown(socket.SHUT_WR)
            listen(Wire(ours, patience=1))


def _packets(wire: Wire) -> None:
    while True:
        wire.receive(one_of_many=True)


def _monitor(wire: Wire) -> None:
    text = monitor(wire, "info mtree -f") or ""
    flat_view_ram(text)
    numbers(text, 4, "little")
