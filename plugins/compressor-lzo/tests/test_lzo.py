"""LZO1X streams by two libraries that know nothing of each other, and vectors made by hand.

Source of the vectors: Documentation/staging/lzo.rst of the Linux kernel, which describes the stream.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from pydump.errors import PlanError
from pydump.interfaces.compressor import Compressor
from pydump.testing.compressor import PAGE, CompressorTests
from pydump.testing.guests import KINDS
from pydump_compressor_lzo import LzoCompressor

MISSING = "python-lzo is not installed: it needs a C compiler, python3-dev and liblzo2-dev"
END = b"\x11\x00\x00"
#: 0x15 copies 4 literals; 0x20 is a match of 2 + 31 + 15 * 255 + 0xEA bytes; (distance - 1) << 2 follows it.
PERIODIC = b"\x15abcd" + b"\x20" + bytes(15) + b"\xea" + b"\x0c\x00" + END


class LzoTests(CompressorTests):
    """What holds for each library."""

    compressor: ClassVar[type[Compressor]] = LzoCompressor

    @pytest.mark.parametrize(
        ("stream", "page"),
        [
            (b"\x15abcd" + END, b"abcd"),
            (b"\x1aninebytes"[:10] + END, b"ninebytes"),
            (b"\x15abcd" + b"\x6c\x00" + END, b"abcdabcd"),  # M2: 4 bytes from 4 back
            (b"\x15abcd" + b"\x6d\x00!" + END, b"abcdabcd!"),  # and 1 literal
            (b"\x15abcd" + b"\x22\x0c\x00" + END, b"abcdabcd"),  # M3: 2 + 2 bytes from 4 back
            (PERIODIC, b"abcd" * 1024),
        ],
    )
    def test_it_reads_streams_made_by_hand(self, stream: bytes, page: bytes) -> None:
        assert self.make().decompress(stream, len(page)) == page

    @pytest.mark.parametrize(
        "stream",
        [
            END,  # nothing
            b"\x15abcd" + b"\x22\x10\x00" + END,  # from 5 back, where 4 are there
            b"\x15abcd" + b"\x20" + bytes(64),  # a length that never ends
            b"\x00" + bytes(200),  # literals that never come
            b"\x15abcd" + b"\x20" + bytes(4000) + b"\xea" + b"\x0c\x00" + END,  # a megabyte
        ],
    )
    def test_it_refuses_streams_that_lie(self, stream: bytes) -> None:
        self.refuses(self.make(), stream, PAGE)

    def test_it_puts_nothing_around_the_stream(self) -> None:
        stream = self.make().compress(bytes(PAGE))
        assert len(stream) < 64 and stream.endswith(END)


class TestPythonLzo(LzoTests):
    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _installed(cls) -> None:
        pytest.importorskip("lzo", reason=MISSING)

    def test_it_is_taken_where_it_is_installed(self) -> None:
        assert self.make().producer.startswith("python-lzo ")
        assert self.make().advice == ""

    @pytest.mark.parametrize("size", [4096, 65536])
    @pytest.mark.parametrize("kind", KINDS)
    def test_lzallright_reads_its_pages(self, kind: Any, size: int) -> None:
        from lzallright import LZOCompressor

        page = kind(3, size)
        assert LZOCompressor.decompress(self.make().compress(page)) == page
        assert LZOCompressor.decompress(self.make().compress_batch(memoryview(page), size, [0])[0]) == page


class TestLzallright(LzoTests):
    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _alone(cls) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "lzo", None)
            yield

    def test_it_stands_in_and_says_what_is_faster(self) -> None:
        assert self.make().producer.startswith("lzallright ")
        assert self.make().advice.startswith("python-lzo compresses about ten times as fast: pip install python-lzo (")

    @pytest.mark.parametrize("size", [4096, 65536])
    @pytest.mark.parametrize("kind", KINDS)
    def test_python_lzo_reads_its_pages(self, kind: Any, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
        page = kind(3, size)
        stream = self.make().compress(page)
        monkeypatch.delitem(sys.modules, "lzo")
        lzo = pytest.importorskip("lzo", reason=MISSING)
        assert lzo.decompress(stream, False, size) == page


def test_where_no_library_is_installed_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lzo", None)
    monkeypatch.setitem(sys.modules, "lzallright", None)
    codec = LzoCompressor()
    for use in (lambda: codec.compress(bytes(PAGE)), lambda: codec.decompress(END, PAGE), lambda: codec.producer):
        with pytest.raises(PlanError, match="no LZO library is installed; pip install python-lzo"):
            use()
