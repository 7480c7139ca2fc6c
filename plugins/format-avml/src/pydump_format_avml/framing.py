"""The Snappy frames of AVML's blocks.

Source: Snappy's framing_format.txt; AVML src/image.rs.
"""

from __future__ import annotations

from typing import Final

#: A frame has a type, a length of three bytes, and that many bytes.
FRAME_HEADER: Final = 4
#: Data begins with a masked CRC-32C of what it decompresses to.
CRC: Final = 4
#: The first frame of a stream.
STREAM_IDENTIFIER: Final = b"\xff\x06\0\0sNaPpY"
COMPRESSED: Final = 0x00  #: Type of a frame whose data is a Snappy block.
PLAIN: Final = 0x01  #: Type of a frame whose data is as it is.
SKIPPED: Final = range(0x80, 0xFF)  #: Types of frames without data, padding among them.
#: A frame has no more data, uncompressed.
MAX_DATA: Final = 1 << 16
#: Behind each block is the length of its stream: 64 bits, little-endian.
TRAILER: Final = 8


def stated_length(block: bytes) -> int:
    """The uncompressed length that a Snappy block begins with: 7 bits a byte, the lowest first; -1 if it is damaged."""
    length = 0
    for place, byte in enumerate(block[:5]):
        length |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return length
    return -1
