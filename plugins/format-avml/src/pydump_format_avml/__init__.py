"""AVML memory images: the format's name, and how to tell a file of it.

Reader and writer are loaded when one is wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydump.hookspecs import hookimpl
from pydump.interfaces.format import Format
from pydump.layout.lime import AVML_MAGIC, AVML_VERSION

if TYPE_CHECKING:
    from pydump.interfaces.compressor import Compressor
    from pydump.interfaces.format import Opened
    from pydump.interfaces.image import MemoryImage
    from pydump.interfaces.writer import Writer
    from pydump.model.plan import Plan

_HEAD = AVML_MAGIC.to_bytes(4, "little") + AVML_VERSION.to_bytes(4, "little")


class AvmlFormat(Format):
    """Blocks of memory, compressed with Snappy, each behind a header that says where it lies."""

    name: ClassVar[str] = "avml"
    carries: ClassVar[frozenset[str]] = frozenset()
    own_compression: ClassVar[str] = "snappy"
    #: Each run that is left out costs a header and the begin of a block.
    least_hole: ClassVar[int] = 1 << 20

    @classmethod
    def detect(cls, head: bytes) -> bool:
        return head.startswith(_HEAD)

    @classmethod
    def open(cls, opened: Opened) -> MemoryImage:
        from pydump_format_avml.reader import AvmlImage

        return AvmlImage(opened.files[0])

    @classmethod
    def writer(cls, plan: Plan, compressor: Compressor | None) -> Writer:
        from pydump_format_avml.writer import AvmlWriter

        return AvmlWriter(plan)


@hookimpl
def pydump_register_formats() -> Sequence[type[Format]]:
    """``--format avml``."""
    return [AvmlFormat]
