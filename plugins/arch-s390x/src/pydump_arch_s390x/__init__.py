"""s390x."""

from __future__ import annotations

from collections.abc import Sequence

from pydump.hookspecs import hookimpl
from pydump.interfaces.arch import Arch
from pydump_arch_s390x.s390x import S390xArch

__all__ = ["S390xArch"]


@hookimpl
def pydump_register_arches() -> Sequence[type[Arch]]:
    """``--arch s390x``."""
    return [S390xArch]
