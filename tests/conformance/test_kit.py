"""The conformance kit over every first-party plugin, as a third party would run it; and that it finds what is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pydump.registry import installed

PLUGINS = Path(__file__).parents[2] / "plugins"


def kit(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={directory / 'tmp'}"]
    return subprocess.run([*command, *arguments], cwd=directory, capture_output=True, text=True, timeout=600)


def runs_the_kit(plugin: str) -> bool:
    """Whether a plugin's own tests run the kit: then they run it with its options, and each of its libraries."""
    role = plugin.partition("-")[0].capitalize()
    return any(f"({role}Tests)" in path.read_text() for path in PLUGINS.glob(f"{plugin}/tests/test_*.py"))


def test_every_plugin_passes_that_does_not_run_the_kit_itself(tmp_path: Path) -> None:
    wanted = [plugin for plugin in installed().plugins if plugin.name != "core" and not runs_the_kit(plugin.name)]
    done = kit(tmp_path, "--pyargs", "pydump.testing", "-vv", *(f"--pydump-plugin={plugin.name}" for plugin in wanted))
    assert done.returncode == 0, done.stdout[-3000:]
    for plugin in wanted:
        for role, cls in plugin.classes:
            assert f"::Test_{role}_{cls.name}::" in done.stdout


@pytest.mark.parametrize("folder", sorted(PLUGINS.glob("compressor-*")), ids=lambda path: path.name)
def test_a_compressor_runs_the_kit_in_its_own_tests(folder: Path) -> None:
    assert runs_the_kit(folder.name)


def test_the_kit_has_a_class_for_every_plugin(tmp_path: Path) -> None:
    done = kit(tmp_path, "--pyargs", "pydump.testing", "--collect-only")
    for plugin in installed().plugins:
        for role, cls in plugin.classes if plugin.name != "core" else ():
            assert f"::Test_{role}_{cls.name}::" in done.stdout


def test_one_plugin(tmp_path: Path) -> None:
    done = kit(tmp_path, "--pyargs", "pydump.testing", "--pydump-plugin=arch-s390x", "-vv")
    assert done.returncode == 0, done.stdout[-3000:]
    assert "::Test_arch_s390x::" in done.stdout
    assert "::Test_compressor" not in done.stdout


@pytest.mark.parametrize("kind", [(), ("--memory-only",)], ids=["with facts", "memory only"])
def test_a_new_format_passes(kind: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-m", "pydump", "new-plugin", "format", "reel", *kind]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "pydump-format-reel" / "src"))
    done = kit(tmp_path, "pydump-format-reel/tests")
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


def test_names_that_are_no_plugin(tmp_path: Path) -> None:
    done = kit(tmp_path, "--pyargs", "pydump.testing", "--pydump-plugin=nosuch")
    assert done.returncode == 4
    assert "there is no plugin nosuch: installed are core, " in done.stderr


WRONG = {
    "a compressor that forgets the last byte": """
from pydump.testing.compressor import CompressorTests
from pydump.testing.dummy import DummyCompressor

class Forgetful(DummyCompressor):
    def compress(self, data):
        return bytes(data)[:-1]

class TestForgetful(CompressorTests):
    compressor = Forgetful
""",
    "a compressor that takes bytes only": """
from pydump.testing.compressor import CompressorTests
from pydump_compressor_zstd import ZstdCompressor

class Picky(ZstdCompressor):
    def compress(self, data):
        return super().compress(b"" + data)

class TestPicky(CompressorTests):
    compressor = Picky
""",
    "a format that loses its notes": """
from dataclasses import replace
from pydump.testing.format import FormatTests
from pydump_format_kdump import KdumpFormat

class Noteless(KdumpFormat):
    name = "noteless"
    aliases = {}

    @classmethod
    def writer(cls, plan, compressor):
        return super().writer(replace(plan, guest=replace(plan.guest, notes=())), compressor)

    @classmethod
    def detect(cls, head):
        return False

class TestNoteless(FormatTests):
    format = Noteless
""",
    "a format that claims every file": """
from pydump.testing.dummy import DummyFormat
from pydump.testing.format import FormatTests

class Greedy(DummyFormat):
    @classmethod
    def detect(cls, head):
        return True

class TestGreedy(FormatTests):
    format = Greedy
""",
    "an architecture whose registers overlap": """
from pydump.layout.registers import NoteKind, run
from pydump.testing.arch import ArchTests
from pydump.testing.dummy import DummyArch

class Overlapping(DummyArch):
    note_kinds = (NoteKind("PRSTATUS", "CORE", 1, 16, run(0, 8, "pc") + run(4, 8, "sp")),)

class TestOverlapping(ArchTests):
    arch = Overlapping
""",
    "a source that raises what it likes": """
from pydump.builtin.raw import RawImage, RawSource
from pydump.testing.source import SourceTests

class Careless(RawSource):
    name = "careless"

    @classmethod
    def open(cls, argument, options=None):
        return RawImage([(0, open(argument))])

class TestCareless(SourceTests):
    source = Careless
""",
}


@pytest.mark.parametrize("fault", WRONG)
def test_what_is_wrong_is_found(fault: str, tmp_path: Path) -> None:
    (tmp_path / "test_wrong.py").write_text(WRONG[fault])
    done = kit(tmp_path, "test_wrong.py")
    assert done.returncode == 1, done.stdout[-3000:] + done.stderr
    assert " failed" in done.stdout
