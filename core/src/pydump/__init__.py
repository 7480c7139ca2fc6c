"""Turn guest memory into a vmcore that every tool can open.

::

    import pydump

    report = pydump.dump("qemu-dump.elf", "vmcore", compression="lzo")
    with pydump.open("vmcore") as vmcore:
        print(vmcore.guest.arch, vmcore.read(0x1000, 16).hex())
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydump.api import compare, dump, follow, open, sizes, survey, verify
    from pydump.builtin.raw import BytesImage
    from pydump.engine.dump import Dump
    from pydump.errors import PydumpError
    from pydump.hookspecs import hookimpl

__version__ = "0.1.0"

# Loaded at first use: a plugin imports rooms of this package, and must not pull in the engine with them.
_HOMES = {
    "Dump": "pydump.engine.dump",
    "BytesImage": "pydump.builtin.raw",
    "PydumpError": "pydump.errors",
    "compare": "pydump.api",
    "dump": "pydump.api",
    "follow": "pydump.api",
    "hookimpl": "pydump.hookspecs",
    "open": "pydump.api",
    "sizes": "pydump.api",
    "survey": "pydump.api",
    "verify": "pydump.api",
}
__all__ = [
    "BytesImage",
    "Dump",
    "PydumpError",
    "compare",
    "dump",
    "follow",
    "hookimpl",
    "open",
    "sizes",
    "survey",
    "verify",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(home), name)
