"""zlib streams by three libraries; the judges are Python's own zlib, RFC 1950, and pages that QEMU compressed."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import zlib
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pydump.errors import PlanError
from pydump.interfaces.compressor import Compressor
from pydump.testing.compressor import PAGE, CompressorTests
from pydump.testing.guests import KINDS, random_page, text_page
from pydump_compressor_zlib import ISAL_LEVELS, LIBRARIES, ZlibCompressor, ZlibOptions

GOLDEN = json.loads((Path(__file__).parent / "data" / "qemu-pages.json").read_text())


class ZlibTests(CompressorTests):
    """What holds for each of the libraries."""

    compressor: ClassVar[type[Compressor]] = ZlibCompressor
    levels: ClassVar[range] = range(1, 10)

    @pytest.mark.parametrize("kind", KINDS)
    def test_each_level_gives_a_plain_zlib_stream(self, kind: Any) -> None:
        page = kind(5, PAGE)
        for level in self.levels:
            codec = ZlibCompressor(ZlibOptions(level=level, library=self.options["library"]))
            stream = codec.compress(page)
            # RFC 1950: method 8, a window of 32 KiB at most, a multiple of 31, no dictionary; Adler-32 at the end.
            assert stream[0] & 0x0F == 8 and stream[0] >> 4 <= 7
            assert int.from_bytes(stream[:2], "big") % 31 == 0 and not stream[1] & 0x20
            assert int.from_bytes(stream[-4:], "big") == zlib.adler32(page)
            assert zlib.decompress(stream) == page

    def test_a_batch_is_read_by_zlib(self) -> None:
        data = text_page(1) + random_page(2) + text_page(3)
        streams = self.make().compress_batch(memoryview(data), PAGE, [0, PAGE, 2 * PAGE])
        assert b"".join(map(zlib.decompress, streams)) == data

    @pytest.mark.parametrize("entry", GOLDEN, ids=lambda entry: f"{entry['arch']}-{entry['pfn']}")
    def test_it_reads_what_qemu_wrote(self, entry: dict[str, Any]) -> None:
        page = self.make().decompress(base64.b64decode(entry["zlib"]), PAGE)
        assert hashlib.sha256(page).hexdigest() == entry["sha256"]

    @pytest.mark.parametrize("strategy", [zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE, zlib.Z_FIXED])
    @pytest.mark.parametrize("window", range(9, 16))
    @pytest.mark.parametrize("level", [0, 1, 9])
    def test_it_reads_every_kind_of_block(self, level: int, window: int, strategy: int) -> None:
        page = text_page(1)[:2000] + random_page(2)[:2096]
        encoder = zlib.compressobj(level, zlib.DEFLATED, window, strategy=strategy)
        # A flush in the middle and one before the end: the last block is empty, behind the last byte of output.
        stream = encoder.compress(page[:1000]) + encoder.flush(zlib.Z_FULL_FLUSH)
        stream += encoder.compress(page[1000:]) + encoder.flush(zlib.Z_SYNC_FLUSH) + encoder.flush()
        assert self.make().decompress(stream, PAGE) == page
        self.refuses(self.make(), stream, PAGE - 1)

    @pytest.mark.parametrize("at", [-4, -3, -2, -1])
    def test_a_wrong_checksum_is_an_error(self, at: int) -> None:
        stream = bytearray(zlib.compress(text_page(1)))
        stream[at] ^= 0x10
        self.refuses(self.make(), bytes(stream), PAGE)

    def test_a_preset_dictionary_is_an_error(self) -> None:
        encoder = zlib.compressobj(zdict=b"the quick brown fox")
        self.refuses(self.make(), encoder.compress(text_page(1)) + encoder.flush(), PAGE)

    @pytest.mark.parametrize("window", [-15, 31], ids=["raw deflate", "gzip"])
    def test_another_container_is_an_error(self, window: int) -> None:
        encoder = zlib.compressobj(wbits=window)
        self.refuses(self.make(), encoder.compress(text_page(1)) + encoder.flush(), PAGE)


class TestZlibNg(ZlibTests):
    options: ClassVar[dict[str, Any]] = {"library": "zlib-ng"}


class TestIsal(ZlibTests):
    options: ClassVar[dict[str, Any]] = {"library": "isal"}
    levels: ClassVar[range] = range(1, max(ISAL_LEVELS) + 1)

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _installed(cls) -> None:
        pytest.importorskip("isal", reason="pip install isal")

    @pytest.mark.parametrize("level", range(max(ISAL_LEVELS) + 1, 10))
    def test_other_levels_are_refused(self, level: int) -> None:
        with pytest.raises(PlanError, match=f"no level {level}.*zlib-ng"):
            ZlibCompressor(ZlibOptions(level=level, library="isal"))


class TestZlib(ZlibTests):
    options: ClassVar[dict[str, Any]] = {"library": "zlib"}


class TestChoice:
    """Which library ``auto`` takes."""

    @pytest.mark.parametrize(("level", "library"), [(1, "isal"), (2, "isal"), (3, "zlib-ng"), (9, "zlib-ng")])
    def test_isal_at_low_levels(self, level: int, library: str) -> None:
        pytest.importorskip("isal", reason="pip install isal")
        codec = ZlibCompressor(ZlibOptions(level=level))
        assert codec.library == library
        assert codec.producer.startswith(f"{library} ")

    def test_zlib_ng_without_isal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "isal", None)
        assert ZlibCompressor().library == "zlib-ng"

    @pytest.mark.parametrize("level", range(1, 10))
    def test_zlib_stands_in_and_says_what_is_faster(self, level: int, monkeypatch: pytest.MonkeyPatch) -> None:
        # As on s390x, ppc64le and riscv64, for which the others have no wheels.
        monkeypatch.setitem(sys.modules, "isal", None)
        monkeypatch.setitem(sys.modules, "zlib_ng", None)
        codec = ZlibCompressor(ZlibOptions(level=level))
        page = text_page(1)
        assert codec.producer == f"zlib {zlib.ZLIB_RUNTIME_VERSION}"
        assert codec.advice.startswith("zlib-ng compresses three times as fast; pip install zlib-ng ")
        assert codec.compress(page) == zlib.compress(page, level)
        assert ZlibCompressor(ZlibOptions(library="zlib")).advice == ""

    @pytest.mark.parametrize(
        ("library", "install"), [("isal", r"'pydump-compressor-zlib\[isal\]'"), ("zlib-ng", "zlib-ng")]
    )
    def test_asking_for_what_is_not_installed_says_what_to_install(
        self, library: str, install: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, LIBRARIES[library].partition(".")[0], None)
        with pytest.raises(PlanError, match=f"{library} is not installed; pip install {install}"):
            ZlibCompressor(ZlibOptions(library=library))

    def test_higher_levels_are_smaller(self) -> None:
        page = bytes(range(256)) * 4 + text_page(1)[:1024] + random_page(1)[:64] * 32
        sizes = [len(ZlibCompressor(ZlibOptions(level=n, library="zlib-ng")).compress(page)) for n in (1, 9)]
        assert sizes[1] < sizes[0]
