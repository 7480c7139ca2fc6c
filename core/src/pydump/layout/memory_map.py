"""The map beside a file of bare memory that lies end to end: which run of RAM is where.

It is text: :data:`MAP_HEAD`, then a line for each run with its paddr, its size and its offset in the file, all in bytes
and as hexadecimal numbers with ``0x``. Lines that begin with ``#`` and empty lines say nothing. The file of memory has
the map's name without :data:`MAP_SUFFIX`.
"""

from __future__ import annotations

import re
from typing import Final

#: A map of ``ram.bin`` is ``ram.bin.map``.
MAP_SUFFIX: Final = ".map"
#: What a map begins with.
MAP_HEAD: Final = b"# pydump memory map: paddr, size and offset in the file of each run of RAM\n"
#: What a map is known by.
MAP_MARK: Final = b"# pydump memory map"
#: More runs are not read.
MAX_RUNS: Final = 1 << 20
#: A run has at most this many characters.
MAX_LINE: Final = 80
_LINE: Final = re.compile(rb"0x([0-9a-fA-F]{1,16})[ \t]+0x([0-9a-fA-F]{1,16})[ \t]+0x([0-9a-fA-F]{1,16})")


def parse_map(text: bytes) -> list[tuple[int, int, int]]:
    """``(paddr, file offset, size)`` of each run that a map has, in its order.

    Raises:
        ValueError: A line is no run, or there are too many; the message says which.
    """
    runs: list[tuple[int, int, int]] = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith(b"#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            shown = line[:MAX_LINE].decode("latin-1")
            raise ValueError(f"line {number} is {shown!r}, not a paddr, a size and an offset such as 0x0 0xa0000 0x0")
        if len(runs) == MAX_RUNS:
            raise ValueError(f"it has more than {MAX_RUNS} runs")
        paddr, size, offset = (int(match[i], 16) for i in (1, 2, 3))
        runs.append((paddr, offset, size))
    return runs
