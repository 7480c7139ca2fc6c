"""ppc64 and ppc64le."""

from __future__ import annotations

from collections.abc import Sequence

from pydump.hookspecs import hookimpl
from pydump.interfaces.arch import Arch
from pydump_arch_ppc64.ppc64 import Ppc64Arch, Ppc64leArch

__all__ = ["Ppc64Arch", "Ppc64leArch"]


@hookimpl
def pydump_register_arches() -> Sequence[type[Arch]]:
    """``--arch ppc64`` and ``--arch ppc64le``."""
    return [Ppc64Arch, Ppc64leArch]
