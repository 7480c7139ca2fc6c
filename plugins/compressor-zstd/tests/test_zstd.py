"""Zstandard frames: frames made by hand, and the zstd program where it is there.

Source of the frames: RFC 8878, sections 3.1.1 and 3.1.2.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import zstandard

from pydump.errors import CompressionError
from pydump.interfaces.compressor import Compressor
from pydump.testing.compressor import PAGE, CompressorTests
from pydump.testing.guests import KINDS, random_page, text_page
from pydump_compressor_zstd import ZstdCompressor, ZstdOptions

MAGIC = b"\x28\xb5\x2f\xfd"
SIZE_4096 = b"\x60" + struct.pack("<H", PAGE - 256)  # one segment, a size of two bytes
SIZE_HUGE = b"\xe0" + struct.pack("<Q", 1 << 40)  # one segment, a size of eight bytes
SKIPPABLE = b"\x50\x2a\x4d\x18" + struct.pack("<I", 4) + b"skip"


def block(kind: int, size: int, content: bytes, *, last: bool = True) -> bytes:
    """A block: 0 is raw, 1 a byte that repeats."""
    return struct.pack("<I", size << 3 | kind << 1 | last)[:3] + content


RAW = block(0, PAGE, random_page(9))
RLE = block(1, PAGE, b"z")


class TestDebiansZstandard(CompressorTests):
    """python3-zstandard is built against the system's libzstd, without the calls that this has not made stable."""

    compressor: ClassVar[type[Compressor]] = ZstdCompressor

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _no_batch_call(cls) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(zstandard, "backend_features", zstandard.backend_features - {"multi_compress_to_buffer"})
            patch.setattr(zstandard, "BufferWithSegments", None)
            yield


class TestZstd(CompressorTests):
    compressor: ClassVar[type[Compressor]] = ZstdCompressor

    @pytest.mark.parametrize(
        ("frame", "page"),
        [
            (MAGIC + SIZE_4096 + RAW, random_page(9)),
            (MAGIC + SIZE_4096 + RLE, b"z" * PAGE),
            (MAGIC + SIZE_4096 + block(1, 96, b"a", last=False) + block(1, 4000, b"b"), b"a" * 96 + b"b" * 4000),
            # A window of 4 KiB instead of one segment.
            (MAGIC + b"\x40\x10" + SIZE_4096[1:] + RLE, b"z" * PAGE),
        ],
    )
    def test_it_reads_frames_made_by_hand(self, frame: bytes, page: bytes) -> None:
        assert self.make().decompress(frame, PAGE) == page

    @pytest.mark.parametrize(
        "frame",
        [
            MAGIC + SIZE_HUGE + RLE,  # claims a tebibyte
            MAGIC + b"\x00\x10" + RLE,  # does not say its size
            MAGIC + SIZE_4096 + block(1, PAGE - 1, b"z"),  # says 4096 and holds less
            MAGIC + SIZE_4096 + block(1, PAGE + 1, b"z"),  # and more
            MAGIC + SIZE_4096 + block(1, PAGE, b"z", last=False),  # ends without a last block
            MAGIC + SIZE_4096 + block(3, PAGE, b"z"),  # a reserved kind of block
            MAGIC + SIZE_4096 + RLE + MAGIC + SIZE_4096 + RLE,  # two frames
            MAGIC + SIZE_4096 + RLE + SKIPPABLE,
            SKIPPABLE + MAGIC + SIZE_4096 + RLE,
            SKIPPABLE,
            MAGIC + b"\x64" + SIZE_4096[1:] + RLE + b"\0\0\0\0",  # a checksum that is wrong
            MAGIC + b"\x61" + b"\x07" + SIZE_4096[1:] + RLE,  # a dictionary that nobody has
        ],
    )
    def test_it_refuses_frames_that_lie(self, frame: bytes) -> None:
        self.refuses(self.make(), frame, PAGE)

    def test_a_huge_window_is_refused_before_it_is_reserved(self) -> None:
        # 128 MiB, which the library allows unless told otherwise, and no last block, so that the frame cannot be
        # decoded in one go, for which no window is needed.
        frame = MAGIC + b"\x40\x88" + SIZE_4096[1:] + block(1, PAGE, b"z", last=False)
        with pytest.raises(CompressionError, match="requires too much memory"):
            self.make().decompress(frame, PAGE)

    @pytest.mark.parametrize("kind", KINDS)
    def test_each_frame_says_its_size(self, kind: Any) -> None:
        from zstandard import get_frame_parameters

        page = kind(3, PAGE)
        for level in range(1, 20):
            codec = ZstdCompressor(ZstdOptions(level=level))
            for frame in (codec.compress(page), *codec.compress_batch(memoryview(page), PAGE, [0])):
                parameters = get_frame_parameters(frame)
                assert (parameters.content_size, parameters.dict_id) == (PAGE, 0)
                assert parameters.window_size <= PAGE
                assert self.make().decompress(frame, PAGE) == page

    def test_higher_levels_are_smaller(self) -> None:
        page = b"".join(text_page(seed)[seed : seed + 64] + random_page(seed)[:64] for seed in range(32))
        sizes = [len(ZstdCompressor(ZstdOptions(level=level)).compress(page * 4)) for level in (1, 19)]
        assert sizes[1] < sizes[0]

    @pytest.mark.parametrize("size", [4096, 65536])
    @pytest.mark.parametrize("kind", KINDS)
    def test_the_zstd_program_reads_its_frames(self, kind: Any, size: int) -> None:
        zstd = shutil.which("zstd")
        if zstd is None:
            pytest.skip("there is no zstd program")
        page = kind(3, size)
        for frame in (self.make().compress(page), *self.make().compress_batch(memoryview(page), size, [0])):
            run = subprocess.run([zstd, "-d", "-c"], input=frame, capture_output=True, timeout=60, check=True)
            assert run.stdout == page
