from __future__ import annotations

import lzma
from typing import ClassVar

from pydump.interfaces.compressor import Compressor
from pydump.testing.compressor import CompressorTests
from pydump.testing.guests import text_page
from pydump_compressor_lzma import LzmaCompressor


class TestLzma(CompressorTests):
    compressor: ClassVar[type[Compressor]] = LzmaCompressor

    def test_it_reads_what_xz_writes_with_a_small_window(self) -> None:
        filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 4096}]
        assert self.make().decompress(lzma.compress(text_page(1), filters=filters), 4096) == text_page(1)
