"""aarch64 and arm."""

from __future__ import annotations

from collections.abc import Sequence

from pydump.hookspecs import hookimpl
from pydump.interfaces.arch import Arch
from pydump_arch_aarch64.aarch64 import Aarch64Arch
from pydump_arch_aarch64.arm import ArmArch

__all__ = ["Aarch64Arch", "ArmArch"]


@hookimpl
def pydump_register_arches() -> Sequence[type[Arch]]:
    """``--arch aarch64`` and ``--arch arm``."""
    return [Aarch64Arch, ArmArch]
