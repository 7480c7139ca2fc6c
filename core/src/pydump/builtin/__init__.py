"""What works without any plugin: raw and in-memory sources, file and descriptor sinks, flattened streams.

The room is itself a plugin, registered by core before all others.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydump.builtin.raw import RawSource
from pydump.builtin.sinks import DescriptorSink, FileSink
from pydump.hookspecs import hookimpl
from pydump.interfaces.sink import Sink
from pydump.interfaces.source import Source


@hookimpl
def pydump_register_sources() -> Sequence[type[Source]]:
    """``raw:PATH@PADDR``."""
    return [RawSource]


@hookimpl
def pydump_register_sinks() -> Sequence[type[Sink]]:
    """A path, ``-``, and ``fd:N``."""
    return [FileSink, DescriptorSink]
