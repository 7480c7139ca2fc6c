"""The conformance tests of each role, over the classes of the plugins that are installed."""

from __future__ import annotations

from typing import Any

import pytest

from pydump.registry import installed
from pydump.testing import pytest_plugin, readers
from pydump.testing.arch import ArchTests
from pydump.testing.compressor import CompressorTests
from pydump.testing.format import FormatTests
from pydump.testing.source import SourceTests

_KITS: dict[str, type] = {
    "arch": ArchTests,
    "compressor": CompressorTests,
    "format": FormatTests,
    "source": SourceTests,
}
#: Readers that share nothing with the format of that name.
_READERS = {"elf": readers.read_elf, "kdump": readers.read_kdump}


def _classes() -> dict[str, type]:
    """A test class for each class that is tested."""
    made = {}
    for plugin in installed().plugins:
        if plugin.name == "core" or (pytest_plugin.wanted and plugin.name not in pytest_plugin.wanted):
            continue
        for role, cls in plugin.classes:
            if role not in _KITS:
                continue
            attributes: dict[str, Any] = {role: cls}
            if role == "format" and cls.name in _READERS:
                attributes["independent"] = staticmethod(_READERS[cls.name])
            name = f"Test_{role}_{cls.name}".replace("-", "_")
            made[name] = type(name, (_KITS[role],), attributes)
    return made


globals().update(_classes())


def test_something_is_tested() -> None:
    if not _classes():
        pytest.fail("no plugin has an architecture, compressor, format or source to test")
