"""What works without any plugin: raw and in-memory sources, files and descriptors, flattened streams, local workers.

The room is itself a plugin, registered by core before all others.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydump.builtin.local import LocalExecutor
from pydump.builtin.raw import RawSource
from pydump.builtin.storages import DescriptorStorage, FileStorage
from pydump.hookspecs import hookimpl
from pydump.interfaces.executor import Executor
from pydump.interfaces.source import Source
from pydump.interfaces.storage import Storage


@hookimpl
def pydump_register_sources() -> Sequence[type[Source]]:
    """``raw:PATH@PADDR``."""
    return [RawSource]


@hookimpl
def pydump_register_storages() -> Sequence[type[Storage]]:
    """A path, ``-``, and ``fd:N``."""
    return [FileStorage, DescriptorStorage]


@hookimpl
def pydump_register_executors() -> Sequence[type[Executor]]:
    """``local:N``."""
    return [LocalExecutor]
