"""Snappy blocks: vectors made by hand, and libsnappy where it is there.

Source of the vectors: google/snappy, format_description.txt.
"""

from __future__ import annotations

import ctypes
from typing import Any, ClassVar

import pytest

from pydump.interfaces.compressor import Compressor
from pydump.testing.compressor import PAGE, CompressorTests
from pydump.testing.guests import KINDS
from pydump_compressor_snappy import SnappyCompressor

#: 4096 as a varint; 4 literals; 63 copies of 64 bytes and one of 60, each from 4 back.
PERIODIC = b"\x80\x20" + b"\x0cabcd" + b"\xfe\x04\x00" * 63 + b"\xee\x04\x00"


class TestSnappy(CompressorTests):
    compressor: ClassVar[type[Compressor]] = SnappyCompressor

    @pytest.mark.parametrize(
        ("block", "page"),
        [
            (b"\x04\x0cabcd", b"abcd"),
            (b"\x04\xf0\x03abcd", b"abcd"),  # the literal's length in a byte of its own
            (b"\x08\x0cabcd\x01\x04", b"abcdabcd"),  # copy with a 1-byte offset
            (b"\x08\x0cabcd\x0e\x04\x00", b"abcdabcd"),  # with a 2-byte offset
            (b"\x08\x0cabcd\x0f\x04\x00\x00\x00", b"abcdabcd"),  # with a 4-byte offset
            (PERIODIC, b"abcd" * 1024),
        ],
    )
    def test_it_reads_blocks_made_by_hand(self, block: bytes, page: bytes) -> None:
        assert self.make().decompress(block, len(page)) == page

    def test_it_writes_raw_blocks(self) -> None:
        block = self.make().compress(b"abcd" * 1024)
        assert block.startswith(b"\x80\x20\x0c")  # the page's length and a literal, no stream identifier
        assert len(block) <= len(PERIODIC) + 8

    @pytest.mark.parametrize(
        "block",
        [
            b"\xff\xff\xff\xff\x0f" + PERIODIC[2:],  # 4 GiB less a byte
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01" + PERIODIC[2:],  # 2^64 - 1
            b"\x80" * 20,  # a varint that never ends
            b"\x80\x20",  # the length and nothing else
            b"\x80\x20\x0cabcd\xfe\x05\x00",  # from 5 back, where 4 are there
            b"\x80\x20\x0cabcd\xfe\x00\x00",  # from 0 back
            b"\x80\x20\xfc\xff\xff\xff\xff",  # 4 GiB of literals
            b"\xff\x06\x00\x00sNaPpY",  # the framed format
        ],
    )
    def test_it_refuses_blocks_that_lie(self, block: bytes) -> None:
        self.refuses(self.make(), block, PAGE)

    @pytest.mark.parametrize("size", [4096, 65536])
    @pytest.mark.parametrize("kind", KINDS)
    def test_libsnappy_reads_its_blocks_and_it_those_of_libsnappy(self, kind: Any, size: int) -> None:
        try:
            library = ctypes.CDLL("libsnappy.so.1")
        except OSError:
            pytest.skip("there is no libsnappy")
        page = kind(3, size)
        block = self.make().compress(page)
        length = ctypes.c_size_t(size)
        theirs = ctypes.create_string_buffer(size)
        sizes = ctypes.c_size_t(len(block))
        assert library.snappy_uncompress(block, sizes, theirs, ctypes.byref(length)) == 0
        assert theirs.raw[: length.value] == page

        packed = ctypes.create_string_buffer(2 * size)
        length = ctypes.c_size_t(2 * size)
        assert library.snappy_compress(page, ctypes.c_size_t(size), packed, ctypes.byref(length)) == 0
        assert self.make().decompress(packed.raw[: length.value], size) == page
