from __future__ import annotations

from typing import ClassVar

from pydump.interfaces.format import Format
from pydump.testing.format import FormatTests
from pydump_format_chunks import ChunksFormat


class TestChunks(FormatTests):
    format: ClassVar[type[Format]] = ChunksFormat
