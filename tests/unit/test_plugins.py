"""Loading, checking and isolating plugins."""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import ClassVar

import pytest

from pydump import plugins
from pydump.builtin import pydump_register_storages
from pydump.cli import plugin_options, program
from pydump.errors import PluginError, UnknownPluginError
from pydump.hookspecs import hookimpl
from pydump.interfaces.compressor import Compressor
from pydump.interfaces.filter import Filter
from pydump.options import NoOptions, option
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
from pydump.interfaces.filter import Filter
class Good(Compressor):
    name = "good"
    def compress(self, data): return bytes(data)
    def decompress(self, data, size): return bytes(data)
@hookimpl
def pydump_register_compressors(): return [Good]
"""


OPTION = """
from dataclasses import dataclass
from pydump.options import NoOptions, option
@dataclass(frozen=True, slots=True)
class Options:
    level: int = option(1, help="how hard to try"FLAG)
"""


def with_flag(flag: str, name: str = "good") -> str:
    """A compressor with an option of that flag."""
    return GOOD.replace("class Good", f"{OPTION.replace('FLAG', flag)}class Good").replace(
        'name = "good"', f'name = "{name}"; Options = Options'
    )


def by_name(infos: tuple[plugins.PluginInfo, ...]) -> dict[str, plugins.PluginInfo]:
    return {info.name: info for info in infos}


def test_a_plugin_is_found_through_its_entry_point(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, tmp_path, "good", GOOD)
    info = by_name(load())["compressor-good"]
    assert info.error is None
    assert (info.distribution, info.version) == ("pydump-compressor-good", "1.0")
    assert [(role, cls.name) for role, cls in info.classes] == [("compressor", "good")]


#: A filter of which half is missing.
FILTER = """
from pydump import hookimpl
from pydump.interfaces.filter import Classified, Filter
class Bare(Filter):
    @classmethod
    def knows(cls, guest): return True
    @classmethod
    def classify(cls, source, guest, arch): return Classified({})
@hookimpl
def pydump_register_filters(): return [Bare]
"""


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
        ("number", GOOD.replace('name = "good"', "name = 1"), "has a name that is not text"),
        ("filter", FILTER, "filter class Bare has no name, classes"),
        ("none", GOOD.replace('"good"', '"none"'), "the compressor name 'none' is taken by plugin core"),
        ("begin", with_flag(', alias="--begin"'), "the flag --begin is taken by plugin core"),
        ("bool", with_flag(', alias="--fast/--no-sync"'), "the flag --no-sync is taken by plugin core"),
        ("short", with_flag(', alias="-q"'), "option level of compressor good has the invalid flag '-q'"),
        ("twice", GOOD.replace("[Good]", "[Good, Good]"), "the compressor name 'good' is taken by plugin"),
        ("options", GOOD.replace('name = "good"', 'name = "good"; Options = int'), "TypeError"),
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


def test_a_flag_is_taken_only_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, tmp_path, "first", with_flag("", name="first"))
    install(monkeypatch, tmp_path, "second", with_flag(', alias="--first-level"', name="second"))
    infos = by_name(load(strict=False))
    assert infos["compressor-first"].error is None
    assert infos["compressor-second"].error == "the flag --first-level is taken by plugin compressor-first"


def test_the_flags_of_dump_are_all_reserved() -> None:
    dump = program.program().commands["dump"]
    flags = {flag for parameter in dump.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    long = {flag for flag in flags | {"--help"} if flag.startswith("--")}
    assert "--begin" in long
    assert {f"flag {flag}" for flag in long} == {claim for claim in plugins.RESERVED if claim.startswith("flag ")}


def test_options_of_every_role_become_flags() -> None:
    @dataclass(frozen=True, slots=True)
    class Options:
        region: str = option("here", help="where it is")

    bases = {"compressor": dummy.DummyCompressor, "format": dummy.DummyFormat, "storage": dummy.MemoryStorage}
    classes = [(role, type(role, (base,), {"name": f"my_{role}", "Options": Options})) for role, base in bases.items()]
    registry = Registry((plugins.PluginInfo("mine", "", "", tuple(classes)),))
    flags = {flag for parameter in plugin_options.parameters(registry) for flag in parameter.opts}
    assert flags == {"--my-compressor-region", "--my-format-region", "--my-storage-region"}


def test_a_plugin_whose_name_has_a_hyphen_has_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    name = "lz-fast"
    install(monkeypatch, tmp_path, name.replace("-", "_"), with_flag("", name=name))
    registry = Registry(load(strict=False))
    assert not registry.broken
    monkeypatch.setattr("pydump.registry.installed", lambda: registry)
    dump = program.program().commands["dump"]
    monkeypatch.setattr(dump, "callback", lambda **_: None)
    with dump.make_context("dump", ["a", "b", "--lz-fast-level", "4"]) as context:
        assert plugin_options.given(context) == {name: {"level": 4}}


def test_every_parameter_of_dump_has_its_panel() -> None:
    command = program.program().commands["dump"]
    options = [param for param in command.params if param.param_type_name == "option"]
    assert {command.panel_of(param) for param in options} <= set(command.panels)


def hooked(hook: str, cls: type) -> types.ModuleType:
    """A plugin with one hook, which returns one class."""

    def implementation() -> list[type]:
        return [cls]

    made = types.ModuleType("made")
    setattr(made, hook, hookimpl(implementation))
    return made


def test_an_alias_is_a_name() -> None:
    """Whoever came later would take over what users mean by it, silently."""

    class Twin(dummy.DummyArch):
        name = "DUMMY64"
        aliases = ()

    class Shadow(dummy.DummyFormat):
        name = "shadow"
        aliases: ClassVar[dict[str, dict[str, str]]] = {"dummy": {}}

    twin = hooked("pydump_register_arches", Twin)
    shadow = hooked("pydump_register_formats", Shadow)
    builtin = [("dummy", dummy), ("twin", twin), ("shadow", shadow)]
    assert [info.error for info in load(builtin=builtin, installed=False, strict=False)] == [
        None,
        "the arch name 'dummy64' is taken by plugin dummy",
        "the format name 'dummy' is taken by plugin dummy",
    ]


def test_a_class_of_pages_belongs_to_one_filter() -> None:
    first, second = (
        type(name, (Filter,), {"name": name, "classes": {"free": ""}, "knows": None, "classify": None})
        for name in ("one", "two")
    )
    infos = plugins.load(
        builtin=[(cls.name, hooked("pydump_register_filters", cls)) for cls in (first, second)], installed=False
    )
    assert [info.error for info in infos] == [None, "the class 'free' is taken by plugin one"]


def test_options_that_nobody_would_read_are_refused() -> None:
    cls = type("One", (dummy.DummyArch,), {"Options": NoOptions})
    (info,) = plugins.load(builtin=[("one", hooked("pydump_register_arches", cls))], installed=False)
    assert info.error == "ValueError: arch dummy declares Options, which this role does not have"


def test_a_second_plugin_of_one_name_takes_nothing_from_the_first() -> None:
    hook = "pydump_register_arches"
    builtin = [(name, hooked(hook, dummy.DummyArch)) for name in ("first", "first", "third")]
    infos = load(builtin=builtin, installed=False, strict=False)
    assert [bool(info.error) for info in infos] == [False, True, True]
    assert infos[2].error == "the arch name 'dummy' is taken by plugin first"


def test_an_unknown_name_says_what_is_known_and_what_to_install(registry: Registry) -> None:
    with pytest.raises(UnknownPluginError) as caught:
        registry.compressor("lzo")
    assert str(caught.value) == "unknown compressor 'lzo'; available: dummy, none; pip install pydump-compressor-lzo"
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
    broken.pydump_register_storages = lambda: pydump_register_storages  # type: ignore[attr-defined]
    with pytest.raises(PluginError):
        registry_of([("broken", broken)])
