"""QEMU's migration stream, as far as its RAM. What comes before the first ``--`` line is the flat view of its guest."""

from __future__ import annotations

import contextlib
import io
from typing import Any

from pydump.model.memory import Ranges
from pydump_qemu_stream.flat_view import most_ram, places
from pydump_source_qemu.migration import RamStream

#: No memory that the flat view would have to have.
NONE = Ranges.empty()


def one(data: bytes) -> None:
    """Read a flat view, and a stream that ends after ``data``."""
    view, _, stream = data.partition(b"\n--\n")
    file = io.BytesIO(stream)

    def fill(buffer: memoryview) -> int:
        n = file.readinto(buffer)
        if n == 0:
            raise EOFError
        return n

    def write(paddr: int, page: Any) -> None:
        assert paddr >= 0
        assert len(page)

    with contextlib.suppress(EOFError):  # the caller asks QEMU why it ended
        parts = places(view.decode("latin-1"), NONE)
        RamStream(fill, parts, NONE, write, lambda done: None, lambda: None, most_ram(NONE)).read()
