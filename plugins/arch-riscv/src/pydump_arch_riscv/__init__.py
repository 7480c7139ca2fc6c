"""riscv64 and riscv32."""

from __future__ import annotations

from collections.abc import Sequence

from pydump.hookspecs import hookimpl
from pydump.interfaces.arch import Arch
from pydump_arch_riscv.riscv import Riscv32Arch, Riscv64Arch

__all__ = ["Riscv32Arch", "Riscv64Arch"]


@hookimpl
def pydump_register_arches() -> Sequence[type[Arch]]:
    """``--arch riscv64`` and ``--arch riscv32``."""
    return [Riscv64Arch, Riscv32Arch]
