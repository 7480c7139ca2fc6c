"""Loading, checking and isolating plugins."""

from __future__ import annotations

import sys
import types
from importlib import metadata
from pathlib import Path

import pytest

from pydump import plugins
from pydump.builtin import pydump_register_sinks
from pydump.errors import PluginError, UnknownPluginError
from pydump.hookspecs import hookimpl
from pydump.interfaces.compressor import Compressor
from pydump.plugins import load
from pydump.registry import Registry, registry_of
from pydump.testing import dummy


def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, code: str, requires: str = "") -> None:
    """Make a distribution with one entry point, as pip would."""
    module = f"pydump_test_{name}"
    (tmp_path / f"{module}.py").write_text(code)
    info = tmp_path / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: pydump-compressor-{name}\nVersion: 1.0\n{requires}")
    (info / "entry_points.txt").write_text(f"[pydump]\ncompressor-{name} = {module}\n")
    if str(tmp_path) not in sys.path:
        monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, module, raising=False)


GOOD = """
from pydump.hookspecs import hookimpl
from pydump.interfaces.compressor import Compressor
class Good(Compressor):
    name = "good"
    def compress(self, data): return bytes(data)
    def decompress(self, data, size): return bytes(data)
@hookimpl
def pydump_register_compressors(): return [Good]
"""


def by_name(infos: tuple[plugins.PluginInfo, ...]) -> dict[str, plugins.PluginInfo]:
    return {info.name: info for info in infos}


def test_a_plugin_is_found_through_its_entry_point(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, tmp_path, "good", GOOD)
    info = by_name(load())["compressor-good"]
    assert info.error is None
    assert (info.distribution, info.version) == ("pydump-compressor-good", "1.0")
    assert [(role, cls.name) for role, cls in info.classes] == [("compressor", "good")]


@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [
        ("import", "raise RuntimeError('no such\\nlibrary')", "RuntimeError: no such library"),
        ("syntax", "def broken(:", "SyntaxError"),
        ("exit", "import nonexistent_module", "ModuleNotFoundError"),
        ("nothing", "", "registers nothing"),
        ("abstract", GOOD.replace("def compress(self, data): return bytes(data)", ""), "does not implement compress"),
        ("wrong", GOOD.replace("return [Good]", "return [int]"), "is no Compressor class"),
        ("raises", GOOD.replace("return [Good]", "return 1 / 0"), "ZeroDivisionError"),
        (
            "hook",
            GOOD.replace("def pydump_register_compressors", "def pydump_register_nonsense"),
            "pydump_register_nonsense",
        ),
        ("nameless", GOOD.replace('name = "good"', ""), "has no name"),
    ],
)
def test_a_broken_plugin_is_recorded_and_the_others_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, code: str, reason: str
) -> None:
    install(monkeypatch, tmp_path, name, code)
    install(monkeypatch, tmp_path, "zgood", GOOD)
    infos = by_name(load(strict=False))
    error = infos[f"compressor-{name}"].error
    assert error is not None
    assert reason in error
    assert "\n" not in error
    assert infos["compressor-zgood"].error is None
    with pytest.raises(PluginError, match=f"compressor-{name}"):
        load(strict=True)


def test_strict_by_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, tmp_path, "broken", "raise RuntimeError('x')")
    load()
    monkeypatch.setenv("PYDUMP_STRICT_PLUGINS", "1")
    with pytest.raises(PluginError):
        load()


def test_a_plugin_made_for_another_core_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, tmp_path, "old", GOOD, requires="Requires-Dist: pydump-core==99.0\n")
    error = by_name(load())["compressor-old"].error
    assert error is not None
    assert "pydump-core==99.0" in error
    assert metadata.version("pydump-core") in error


def test_a_name_is_taken_only_once() -> None:
    twin = types.ModuleType("twin")

    class Twin(dummy.DummyCompressor):
        pass

    @hookimpl
    def pydump_register_compressors() -> list[type[Compressor]]:
        return [Twin]

    twin.pydump_register_compressors = pydump_register_compressors  # type: ignore[attr-defined]
    infos = load(builtin=[("dummy", dummy), ("twin", twin)], installed=False, strict=False)
    assert infos[0].error is None
    assert infos[1].error == "the compressor name 'dummy' is taken by plugin dummy"


def test_an_unknown_name_says_what_is_known_and_what_to_install(registry: Registry) -> None:
    with pytest.raises(UnknownPluginError) as caught:
        registry.compressor("lzo")
    assert str(caught.value) == "unknown compressor 'lzo': known are dummy; pip install pydump-compressor-lzo"
    with pytest.raises(UnknownPluginError, match="pip install pydump-arch-riscv$"):
        registry.arch("riscv64")
    with pytest.raises(UnknownPluginError, match="pip install pydump-source-qemu$"):
        registry.source("qmp")


def test_an_unknown_name_whose_plugin_is_broken_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, tmp_path, "lame", "import nonexistent_module")
    with pytest.raises(UnknownPluginError, match="installed but broken: ModuleNotFoundError"):
        Registry(load()).compressor("lame")


def test_an_alias_finds_its_arch(registry: Registry) -> None:
    assert registry.arch("DUMMY64") is dummy.DummyArch


def test_a_registry_of_objects_is_strict() -> None:
    broken = types.ModuleType("broken")
    broken.pydump_register_sinks = lambda: pydump_register_sinks  # type: ignore[attr-defined]
    with pytest.raises(PluginError):
        registry_of([("broken", broken)])
