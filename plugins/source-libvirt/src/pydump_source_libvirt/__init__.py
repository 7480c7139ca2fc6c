"""Captures the memory of a running domain of libvirt: ``pydump dump libvirt:DOMAIN vmcore``."""

from __future__ import annotations

from collections.abc import Sequence

from pydump.hookspecs import hookimpl
from pydump.interfaces.source import Source
from pydump_source_libvirt.options import LibvirtOptions
from pydump_source_libvirt.source import LibvirtSource

__all__ = ["LibvirtOptions", "LibvirtSource"]


@hookimpl
def pydump_register_sources() -> Sequence[type[Source]]:
    """``libvirt:DOMAIN``."""
    return [LibvirtSource]
