"""The header in front of each range of memory in LiME and AVML files."""

from __future__ import annotations

from typing import Final

from pydump.layout.struct import U32, U64, Layout

#: "EMiL" in the file.
LIME_MAGIC: Final = 0x4C694D45
LIME_VERSION: Final = 1  #: The only one.
#: "AVML" in the file: what follows is compressed.
AVML_MAGIC: Final = 0x4C4D5641
AVML_VERSION: Final = 2  #: AVML's version 1 is LiME.


class RangeHeader(Layout):
    """A range of guest memory, whose bytes follow. Always little-endian.

    Source: LiME doc/README.md, lime_mem_range_header; AVML src/image.rs, Header.
    """

    magic: U32 = LIME_MAGIC
    version: U32 = LIME_VERSION
    #: The first paddr of the range.
    s_addr: U64 = 0
    #: The last paddr of the range, inclusive.
    e_addr: U64 = 0
    reserved: U64 = 0
