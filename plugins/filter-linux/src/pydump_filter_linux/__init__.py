"""Leaves out pages of Linux guests."""

from __future__ import annotations

from collections.abc import Sequence

from pydump.hookspecs import hookimpl
from pydump.interfaces.filter import Filter
from pydump_filter_linux.linux import LinuxFilter

__all__ = ["LinuxFilter"]


@hookimpl
def pydump_register_filters() -> Sequence[type[Filter]]:
    """Free, cache and user pages, by struct page."""
    return [LinuxFilter]
