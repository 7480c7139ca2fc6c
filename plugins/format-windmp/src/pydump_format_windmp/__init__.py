"""Windows crash dumps: the format's name, and how to tell a file of it.

Reader and writer are loaded when one is wanted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydump.hookspecs import hookimpl
from pydump.interfaces.format import Format
from pydump.layout.windows import header_bits
from pydump.options import option

if TYPE_CHECKING:
    from pydump.interfaces.arch import Arch
    from pydump.interfaces.compressor import Compressor
    from pydump.interfaces.format import Opened
    from pydump.interfaces.image import MemoryImage
    from pydump.interfaces.writer import Writer
    from pydump.model.plan import Plan


@dataclass(frozen=True, slots=True)
class WindmpOptions:
    """How the file is written."""

    header: str = option(
        "", help="take the header from FILE, such as another dump of the guest, not from the guest", metavar="FILE"
    )


class WindmpFormat(Format):
    """A Windows crash dump with all of memory."""

    name: ClassVar[str] = "windmp"
    qemu_writes: ClassVar[bool] = True
    aliases: ClassVar[Mapping[str, Mapping[str, Any]]] = {"win-dmp": {}}
    #: Registers and the architecture depend on the guest: see the writer.
    carries: ClassVar[frozenset[str]] = frozenset({"excluded", "windows"})
    whole_pages: ClassVar[bool] = True
    Options: ClassVar[type] = WindmpOptions

    @classmethod
    def detect(cls, head: bytes) -> bool:
        return header_bits(head) is not None

    @classmethod
    def open(cls, opened: Opened) -> MemoryImage:
        from pydump_format_windmp.reader import WindmpImage

        return WindmpImage(opened.files[0])

    @classmethod
    def complete(cls, plan: Plan, image: MemoryImage, arch: type[Arch]) -> Plan:
        from pydump_format_windmp.complete import complete

        return complete(plan, image, arch)

    @classmethod
    def writer(cls, plan: Plan, compressor: Compressor | None) -> Writer:
        from pydump_format_windmp.writer import WindmpWriter

        return WindmpWriter(plan)


@hookimpl
def pydump_register_formats() -> Sequence[type[Format]]:
    """``--format windmp``."""
    return [WindmpFormat]
