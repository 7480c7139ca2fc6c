"""Bare memory: the format's name. The writer is loaded when it is wanted; core's source ``raw:`` reads such files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pydump.hookspecs import hookimpl
from pydump.interfaces.format import Format
from pydump.options import option

if TYPE_CHECKING:
    from pydump.interfaces.compressor import Compressor
    from pydump.interfaces.writer import Writer
    from pydump.model.plan import Plan


@dataclass(frozen=True, slots=True)
class RawOptions:
    """How the file is laid out."""

    packed: bool = option(False, help="lay RAM end to end, and write where it belongs to OUTPUT.map for raw:OUTPUT.map")


class RawFormat(Format):
    """Memory and nothing else."""

    name: ClassVar[str] = "raw"
    carries: ClassVar[frozenset[str]] = frozenset()
    Options: ClassVar[type] = RawOptions

    @classmethod
    def writer(cls, plan: Plan, compressor: Compressor | None) -> Writer:
        from pydump_format_raw.writer import RawWriter

        return RawWriter(plan)


@hookimpl
def pydump_register_formats() -> Sequence[type[Format]]:
    """``--format raw``."""
    return [RawFormat]
