"""Refuses to write tables that are out of proportion: an entry for each page of RAM that a few KiB of a file claim."""

from __future__ import annotations

from typing import Final

from pydump.errors import PlanError
from pydump.interfaces.image import KnowsHoles, MemoryImage
from pydump.interfaces.writer import Writer
from pydump.model.memory import Ranges

#: Tables smaller than this are written without a word: those of 170 GiB of RAM in a kdump.
MENTIONED: Final = 1 << 30
#: Tables of this size, and this many times what the source holds, are refused: those of 5 TiB of RAM in a kdump.
REFUSED, TIMES = 32 << 30, 16


def check_tables(image: MemoryImage, writer: Writer, readable: Ranges, *, trusted: bool) -> tuple[str, ...]:
    """Look at what is written for memory that is known to be zero.

    Args:
        image: Where memory is read from.
        writer: Writes it.
        readable: What of it can be read.
        trusted: Whether the range is right, however large: the user gave it, or a running guest has it.

    Returns:
        Warnings, a line each.

    Raises:
        PlanError: It is out of all proportion to what the source holds.
    """
    size = writer.tables_size
    if size < MENTIONED or not isinstance(image, KnowsHoles):
        return ()
    held = sum(b - a for start, end in readable for a, b in image.data_ranges(start, end - start))
    if size <= held:
        return ()
    what = (
        f"{size / 1e9:.0f} GB of tables are written for {readable.size >> 30} GiB of RAM, "
        f"of which the source holds {_shown(held)} of data"
    )
    if size >= REFUSED and size >= TIMES * held and not trusted:
        first, end = int(readable.array[0, 0]), int(readable.array[-1, 1])
        whole = f"--begin {first:#x} --length {end - first:#x}"
        raise PlanError(
            f"{what}: its map of RAM may be damaged",
            hint=f"--format elf stores zeros as holes; or name what to write: {whole} is all of it",
        )
    return (what,)


def _shown(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size} bytes"
