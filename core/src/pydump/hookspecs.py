"""All hooks on one screen. A hook is called once, when plugins are loaded, and returns classes.

A plugin is a module or object behind an entry point of the group ``pydump``; it implements the hooks of the roles it
plays with ``@pydump.hookimpl``. Hooks choose; they never process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from pydump.interfaces.arch import Arch
    from pydump.interfaces.compressor import Compressor
    from pydump.interfaces.executor import Executor
    from pydump.interfaces.filter import Filter
    from pydump.interfaces.format import Format
    from pydump.interfaces.source import Source
    from pydump.interfaces.storage import Storage

#: Marks the hooks below.
hookspec = pluggy.HookspecMarker("pydump")
#: ``@hookimpl`` before a function says: this is my implementation of the hook that has this name.
hookimpl = pluggy.HookimplMarker("pydump")


@hookspec
def pydump_register_arches() -> Sequence[type[Arch]]:  # type: ignore[empty-body]
    """Architectures: how CPU state becomes notes, how addresses translate."""


@hookspec
def pydump_register_formats() -> Sequence[type[Format]]:  # type: ignore[empty-body]
    """Formats: how pages and notes become a file, and back."""


@hookspec
def pydump_register_compressors() -> Sequence[type[Compressor]]:  # type: ignore[empty-body]
    """Compressors: bytes in, bytes out."""


@hookspec
def pydump_register_sources() -> Sequence[type[Source]]:  # type: ignore[empty-body]
    """Sources other than vmcore files: raw memory, a live guest."""


@hookspec
def pydump_register_storages() -> Sequence[type[Storage]]:  # type: ignore[empty-body]
    """Storages: where dumps are read from and written to, by URL scheme."""


@hookspec
def pydump_register_filters() -> Sequence[type[Filter]]:  # type: ignore[empty-body]
    """Filters: which pages of a guest a dump can leave out."""


@hookspec
def pydump_register_executors() -> Sequence[type[Executor]]:  # type: ignore[empty-body]
    """Executors: which processes, on which hosts, read and encode."""
