"""The kdump-compressed format: its name, its numbers, and how to tell a file of it.

Reader and writer are loaded when one is wanted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydump.errors import UnsupportedError
from pydump.hookspecs import hookimpl
from pydump.interfaces.format import Format
from pydump.options import option

if TYPE_CHECKING:
    from pydump.interfaces.compressor import Compressor
    from pydump.interfaces.format import Opened
    from pydump.interfaces.image import MemoryImage
    from pydump.interfaces.writer import Writer
    from pydump.model.plan import Plan

#: Compressors beside which hashing a page costs little: equal pages are found without being asked.
HASHED = ("zlib", "zstd")
#: The compressors of QEMU's kdump files. Source: DumpGuestMemoryFormat in qapi/dump.json of QEMU.
QEMU_WRITES = ("zlib", "lzo", "snappy")


@dataclass(frozen=True, slots=True)
class KdumpOptions:
    """How the file is written."""

    dedup: bool | None = option(
        None, help="store identical pages once (default with zlib and zstd)", alias="--dedup/--no-dedup"
    )
    pfn_base: str = option(
        "zero",
        help="count the pages of a 32-bit arm guest from address 0 or, as makedumpfile does, phys_base",
        choices=("zero", "phys_base"),
    )


class KdumpFormat(Format):
    """makedumpfile's kdump-compressed format."""

    name: ClassVar[str] = "kdump"
    qemu_writes: ClassVar[bool] = True
    aliases: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        alias + codec: {"compression": codec}
        for codec in ("zlib", "lzo", "snappy", "zstd")
        for alias in ("kdump-", "kdump-raw-")
    }
    compressors: ClassVar[tuple[str, ...]] = ("zlib", "lzo", "snappy", "zstd")
    splits: ClassVar[bool] = True
    whole_pages: ClassVar[bool] = True
    shares_zero_pages: ClassVar[bool] = True
    Options: ClassVar[type] = KdumpOptions

    @classmethod
    def detect(cls, head: bytes) -> bool:
        from pydump_format_kdump.layout import SIGNATURES

        return head.startswith(SIGNATURES)

    @classmethod
    def open(cls, opened: Opened) -> MemoryImage:
        from pydump_format_kdump.reader import KdumpImage

        return KdumpImage(opened.files, opened.decompressors)

    @classmethod
    def writer(cls, plan: Plan, compressor: Compressor | None) -> Writer:
        if plan.compat == "qemu" and plan.compression not in (*QEMU_WRITES, "none"):
            raise UnsupportedError(
                f"QEMU cannot write kdump files with {plan.compression}",
                hint=f"it can with {', '.join(QEMU_WRITES)}; or leave --compat out",
            )
        dedup = plan.options.dedup
        if dedup is None:
            dedup = plan.compression in HASHED and plan.compat is None
        if dedup:
            from pydump_format_kdump.dedup import DedupKdumpWriter

            return DedupKdumpWriter(plan, compressor)
        from pydump_format_kdump.writer import KdumpWriter

        return KdumpWriter(plan, compressor)

    @classmethod
    def split(cls, plan: Plan, n: int) -> Sequence[Plan]:
        from pydump_format_kdump.pfns import split

        return split(plan, n)


@hookimpl
def pydump_register_formats() -> Sequence[type[Format]]:
    """``--format kdump``."""
    return [KdumpFormat]
