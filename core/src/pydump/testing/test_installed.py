"""The conformance tests of each role, over the classes of the plugins that are installed."""

from __future__ import annotations

from typing import Any

import pytest

from pydump.plugins import PluginInfo
from pydump.registry import installed
from pydump.testing import pytest_plugin, readers
from pydump.testing.arch import ArchTests
from pydump.testing.compressor import CompressorTests
from pydump.testing.executor import ExecutorTests
from pydump.testing.filter import FilterTests
from pydump.testing.format import FormatTests
from pydump.testing.source import SourceTests
from pydump.testing.storage import StorageTests

_KITS: dict[str, type] = {
    "arch": ArchTests,
    "compressor": CompressorTests,
    "executor": ExecutorTests,
    "filter": FilterTests,
    "format": FormatTests,
    "source": SourceTests,
    "storage": StorageTests,
}
#: Readers that share nothing with the format of that name.
_READERS = {"elf": readers.read_elf, "kdump": readers.read_kdump}


def _plugins() -> list[PluginInfo]:
    """The plugins that are tested, those that do not work among them."""
    wanted = pytest_plugin.wanted
    return [p for p in installed().plugins if p.name != "core" and (not wanted or p.name in wanted)]


def _classes() -> dict[str, type]:
    """A test class for each class that is tested."""
    made = {}
    for plugin in _plugins():
        for role, cls in plugin.classes:
            attributes: dict[str, Any] = {role: cls}
            if role == "format" and cls.name in _READERS:
                attributes["independent"] = staticmethod(_READERS[cls.name])
            name = f"Test_{role}_{cls.name}".replace("-", "_")
            made[name] = type(name, (_KITS[role],), attributes)
    return made


globals().update(_classes())


@pytest.mark.parametrize("plugin", _plugins(), ids=lambda plugin: plugin.name)
def test_it_loads(plugin: PluginInfo) -> None:
    if plugin.error:
        pytest.fail(f"plugin {plugin.name} does not work: {plugin.error}", pytrace=False)


def test_something_is_tested() -> None:
    if not _classes():
        pytest.fail("there is no plugin to test")
