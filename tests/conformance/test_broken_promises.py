"""Plugins that break one promise each: the kit finds every one of them, by the test that is there for it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import pydump

TEMPLATES = Path(pydump.__file__).with_name("templates")


def kit(*arguments: str, directory: Path, pyargs: str = "pydump.testing") -> subprocess.CompletedProcess[str]:
    """Run the kit over the plugin that lies in ``directory``."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--pyargs", pyargs, *arguments],
        cwd=directory,
        env=os.environ | {"PYTHONPATH": str(directory)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def install(directory: Path, code: str) -> None:
    """What ``pip install`` of a distribution with this one module and its entry point leaves."""
    (directory / "pydump_bad.py").write_text(code)
    info = directory / "pydump_bad-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pydump-bad\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[pydump]\nbad = pydump_bad\n")


@dataclass(frozen=True)
class Broken:
    """A good plugin, made of the template of its role, with one promise broken.

    Attributes:
        role: The template.
        caught: The test that finds it.
        good: What is replaced.
        bad: By what.
    """

    role: str
    caught: str
    good: str
    bad: str


ADDRESS_SPACE = """
    @classmethod
    def address_space(cls, guest, read):
        return guest.vmcoreinfo.text


@hookimpl"""

ALWAYS_BIG = """
    @classmethod
    def cpu_notes(cls, cpus, byte_order, *, compat=None):
        return super().cpu_notes(cpus, "big", compat=compat)


@hookimpl"""

ONE_CPU = """
    @classmethod
    def cpus(cls, notes, byte_order):
        return super().cpus(notes[:1], byte_order)


@hookimpl"""

NO_NAMES = """
    @classmethod
    def cpu_notes(cls, cpus, byte_order, *, compat=None):
        from pydump.errors import PlanError

        try:
            return super().cpu_notes(cpus, byte_order, compat=compat)
        except PlanError as error:
            raise PlanError(error.message) from None


@hookimpl"""

PAST_THE_END = """
        read = backing.read_into
        def read_into(offset, buffer):
            held = max(0, min(len(buffer), backing.size - offset))
            read(min(offset, backing.size), buffer[:held])
        backing.read_into = read_into
"""

LEVEL = "self.options.level)"
SETTLED = "backing.check(self._offsets[0], self._stored.size)\n"
DAMAGE = "(ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)"
DATA = "batch.position, 0, batch.data,"
PID = "__import__('os').getpid().to_bytes(4, 'little')[:1]"

BROKEN = (
    Broken("compressor", "test_a_page_comes_back", f"data, {LEVEL}", f"data, {LEVEL}[:-1]"),
    Broken("compressor", "test_a_page_comes_back", "        return page", "        return bytearray(page)"),
    Broken("compressor", "test_a_page_comes_back", LEVEL, f"{LEVEL} + bytes(1)"),
    Broken("compressor", "test_a_batch_gives_what_its_pages_give", LEVEL, "__import__('random').randrange(10))"),
    Broken("compressor", "test_any_bytes_give_a_page_or_an_error", "zlib.error as", "KeyError as"),
    Broken("compressor", "test_a_stream_of_a_huge_page", "stream.decompress(data, size)", "stream.decompress(data)"),
    Broken("compressor", "test_bytes_after_the_stream_are_an_error", " or stream.unused_data", ""),
    Broken("compressor", "test_a_stream_cut_off_anywhere_is_an_error", " or not stream.eof", ""),
    Broken(
        "compressor", "test_importing_it_loads_nothing_native", "from pydump.errors", "import numpy\nfrom pydump.errors"
    ),
    Broken("compressor", "test_it_can_be_pickled", "    options: SkeletonOptions", "    __reduce__ = None"),
    Broken(
        "arch", "test_importing_it_loads_nothing_native", "from pydump.hookspecs", "import numpy\nfrom pydump.hookspecs"
    ),
    Broken("arch", "test_its_notes_are_tables_without_overlaps", '"pc sp "', '"pc pc "'),
    Broken("arch", "test_its_notes_are_tables_without_overlaps", "run(112, 8", "run(32, 8"),
    Broken("arch", "test_its_numbers_are_such", "0xFEED", "0xFEED00"),
    Broken("arch", "test_its_numbers_are_such", "(4096,)", "(4000,)"),
    Broken("arch", "test_its_numbers_are_such", '= "skeleton"', '= "Skeleton"'),
    Broken("arch", "test_little_is_known_and_no_error", "\n\n@hookimpl", ADDRESS_SPACE),
    Broken("arch", "test_registers_lie_where_the_table_says", "\n\n@hookimpl", ALWAYS_BIG),
    Broken("arch", "test_registers_come_back", "\n\n@hookimpl", ONE_CPU),
    Broken("format", "test_it_knows_its_own_files_and_no_others", "head.startswith(MAGIC)", "bool(head)"),
    Broken("format", "test_a_file_cut_off_anywhere", SETTLED, PAST_THE_END),
    Broken("format", "test_a_damaged_file_gives_memory_or_an_error", DAMAGE, "KeyError"),
    Broken("format", "test_a_guest_comes_back", DATA, f"{DATA[:-1]} and bytes(batch.size),"),
    Broken(
        "format", "test_the_same_bytes_however_many_workers", DATA, f"{DATA[:-1]} and {PID} + bytes(batch.data[1:]),"
    ),
    Broken(
        "format", "test_the_same_bytes_however_many_workers", '"ram": [', '"time": __import__("time").time(), "ram": ['
    ),
    Broken("format", "test_a_guest_comes_back", "for note in guest.notes]", "for note in guest.notes[::-1]]"),
    Broken("format", "test_a_guest_comes_back", "bytes.fromhex(desc))", "bytes.fromhex(desc)[:8])"),
    Broken("arch", "test_names_and_values_that_are_wrong", "\n\n@hookimpl", NO_NAMES),
    Broken("source", "test_it_says_what_it_is", '= "skeleton"', '= "ske:leton"'),
    Broken("source", "test_what_leads_nowhere_is_an_error_of_pydumps", "(OSError, ValueError)", "OSError"),
)


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: f"{broken.role}-{broken.caught}")
def test_a_broken_promise_is_found(broken: Broken, tmp_path: Path) -> None:
    code = (TEMPLATES / broken.role / f"src/pydump_{broken.role}_skeleton/__init__.py").read_text()
    assert broken.good in code
    install(tmp_path, code.replace(broken.good, broken.bad))
    done = kit("--pydump-plugin=bad", "-k", broken.caught, directory=tmp_path)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout[-4000:] + done.stderr


SINK = """
from pydump.hookspecs import hookimpl
from pydump.builtin.sinks import FileSink
class Bad(FileSink):
    name = "bad"
@hookimpl
def pydump_register_sinks():
    return [Bad]
"""


def test_a_plugin_with_nothing_to_test_is_no_green_run(tmp_path: Path) -> None:
    install(tmp_path, SINK)
    done = kit("--pydump-plugin=bad", directory=tmp_path)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "no plugin has an architecture, compressor, format or source to test" in done.stdout


def test_a_plugin_that_does_not_load_says_why(tmp_path: Path) -> None:
    install(tmp_path, "import nonsense")
    done = kit("--pydump-plugin=bad", directory=tmp_path)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert done.stderr.strip() == ("ERROR: plugin bad does not work: ModuleNotFoundError: No module named 'nonsense'")


def test_other_tests_in_its_place_are_no_green_run(tmp_path: Path) -> None:
    (tmp_path / "test_other.py").write_text("def test_nothing():\n    pass\n")
    done = kit("--pydump-plugin=compressor-zlib", directory=tmp_path, pyargs="test_other")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--pydump-plugin says what --pyargs pydump.testing tests: say both" in done.stderr
