"""x86_64 and i386."""

from __future__ import annotations

from collections.abc import Sequence

from pydump.hookspecs import hookimpl
from pydump.interfaces.arch import Arch
from pydump_arch_x86_64.i386 import I386Arch
from pydump_arch_x86_64.x86_64 import X86_64Arch

__all__ = ["I386Arch", "X86_64Arch"]


@hookimpl
def pydump_register_arches() -> Sequence[type[Arch]]:
    """``--arch x86_64`` and ``--arch i386``."""
    return [X86_64Arch, I386Arch]
