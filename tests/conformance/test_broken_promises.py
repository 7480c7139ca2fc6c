"""Plugins that break one promise each: the kit finds every one of them, by the test that is there for it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

import pydump
from pydump.options import option
from pydump.testing.declared import faults_of_claims, faults_of_options
from pydump.testing.dummy import DummyCompressor

TEMPLATES = Path(pydump.__file__).with_name("templates")


def run_pytest(*arguments: str, directory: Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run pytest beside what lies in ``directory``."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=directory,
        # pytest reports more where CI is set: that must not take for ever either.
        env=os.environ | {"PYTHONPATH": str(directory), "CI": "true"},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def kit(*arguments: str, directory: Path, pyargs: str = "pydump.testing") -> subprocess.CompletedProcess[str]:
    """Run the kit over the plugin that lies in ``directory``."""
    return run_pytest("--pyargs", pyargs, *arguments, directory=directory)


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
        also: What else is replaced, and by what.
    """

    role: str
    caught: str
    good: str
    bad: str
    also: tuple[str, str] = ("", "")


def method(body: str) -> str:
    """A class method, put behind the class that the template ends with."""
    return f"\n    @classmethod\n    {body}\n\n\n@hookimpl"


ADDRESS_SPACE = method("""def address_space(cls, guest, read):
        return guest.vmcoreinfo.text""")
ALWAYS_BIG = method("""def cpu_notes(cls, cpus, byte_order, *, compat=None):
        return super().cpu_notes(cpus, "big", compat=compat)""")
ONE_CPU = method("""def cpus(cls, notes, byte_order):
        return super().cpus(notes[:1], byte_order)""")
NO_NAMES = method("""def cpu_notes(cls, cpus, byte_order, *, compat=None):
        from pydump.errors import PlanError

        try:
            return super().cpu_notes(cpus, byte_order, compat=compat)
        except PlanError as error:
            raise PlanError(error.message) from None""")
TWO_LINES = method("""def uts_machine(cls, byte_order):
        return "skeleton\\n\\0\"""")
EVERYBODY = method("""def owns(cls, guest):
        return bool(guest.notes)""")
ONE_NOTE = """


class _OneNote(type(Arch.quirks)):
    def stated(self, guest):
        from dataclasses import replace

        return replace(guest, notes=guest.notes[:1])


SkeletonArch.quirks = _OneNote()


@hookimpl"""

PAST_THE_END = """
        read = backing.read_into
        def read_into(offset, buffer):
            held = max(0, min(len(buffer), backing.size - offset))
            read(min(offset, backing.size), buffer[:held])
        backing.read_into = read_into
"""
FILE_POSITION = """
            import os
            os.lseek(self._backing.fd, self._offsets[i] + start - self._starts[i], os.SEEK_SET)
            os.readv(self._backing.fd, [buffer[start - paddr : end - paddr]])
"""
COUNTER = """
        self.n = getattr(self, "n", 0) + 1
        return zlib.compress(data, 1 + self.n % 9 if len(data) > 4096 else 1)
"""
NATIVE = """
        import mmap
        with mmap.mmap(-1, 1 << 28) as area:
            area[::4096] = bytes(1 << 16)
        stream = zlib.decompressobj()
"""
DATA_RANGES = """
    def data_ranges(self, paddr, size):
        yield paddr + size - 1, paddr + size + 100000
        yield paddr, paddr + size

    def close(self)"""
SEEK_AND_READ = """
                os.lseek(self._fd, paddr + done, os.SEEK_SET)
                n = os.readv(self._fd, [buffer[done:]])
"""
SEEK_AND_WRITE = """
                os.lseek(self._fd, extent.offset + done, os.SEEK_SET)
                done += os.write(self._fd, view[done:])
"""

TARGET = "(1 << 12))\n"
NO_RUNS = """
    def runs(self, vaddr, size):
        return iter(())
"""
HOSTILE = "test_damaged_headers_give_memory_or_an_error"
SAME = "self._made is not None and os.path.samestat(os.lstat(self._path), self._made)"
PROCESSES = 'ProcessPoolExecutor(workers, get_context("spawn"))'
#: All of them fill one buffer.
THREADS = '__import__("concurrent.futures").futures.ThreadPoolExecutor(workers)'
LEVEL = "self.options.level)"
#: As many bytes behind the stream as the level says.
ADDED = " + bytes(self.options.level)"
TAKEN = ("stream.decompress(data, size)", "stream.decompress(data[:-self.options.level], size)")
COMPRESS = "        return zlib.compress(data, self.options.level)\n"
SETTLED = "backing.check(self._offsets[0], self._stored.size)\n"
DAMAGE = "(ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)"
DATA = "batch.position, 0, batch.data,"
PID = "__import__('os').getpid().to_bytes(4, 'little')[:1]"
READ = """
            self._backing.read_into(self._offsets[i] + start - self._starts[i], buffer[start - paddr : end - paddr])
"""
PREADV = """
                n = os.preadv(self._fd, [buffer[done:]], paddr + done)
"""
PWRITE = """
                done += os.pwrite(self._fd, view[done:], extent.offset + done)
"""
PREADV_AT, SEEK_AND_READ_AT = PREADV.replace("paddr", "offset"), SEEK_AND_READ.replace("paddr", "offset")
PAYLOAD = "Extent(at, encoded.payload)"
#: Written last byte first; and longer than the format says.
BACKWARDS = f"Extent(at, encoded.payload[:1]) if (yield Extent(at + 1, encoded.payload[1:])) is None else {PAYLOAD}"
TOO_LONG = "Extent(at, bytes(encoded.payload) + b'and more')"
LINK = "os.link(self._temporary, self._path)"

BROKEN = (
    Broken("compressor", "test_a_page_comes_back", f"data, {LEVEL}", f"data, {LEVEL}[:-1]"),
    Broken("compressor", "test_a_page_comes_back", "        return page", "        return bytearray(page)"),
    Broken("compressor", "test_a_page_comes_back", LEVEL, f"{LEVEL} + bytes(1)"),
    Broken("compressor", "test_a_page_comes_back", COMPRESS, COUNTER),
    Broken("compressor", "test_a_page_comes_back", LEVEL, "9 if isinstance(data, bytearray) else 1)"),
    Broken("compressor", "test_a_page_comes_back", LEVEL, "9 if memoryview(data).readonly else 1)"),
    Broken("compressor", "test_a_batch_gives_what_its_pages_give", LEVEL, "__import__('random').randrange(10))"),
    Broken(
        "compressor",
        "test_a_page_is_read_without_the_options_that_it_was_written_with",
        LEVEL,
        f"{LEVEL}{ADDED}",
        TAKEN,
    ),
    Broken("compressor", "test_any_bytes_give_a_page_or_an_error", "zlib.error as", "KeyError as"),
    Broken(
        "compressor",
        "test_a_stream_of_a_huge_page_costs_no_more_than_itself",
        "stream.decompress(data, size)",
        "stream.decompress(data)",
    ),
    Broken(
        "compressor",
        "test_a_stream_of_a_huge_page_takes_no_memory_of_its_library",
        "        stream = zlib.decompressobj()\n",
        NATIVE,
    ),
    Broken("compressor", "test_bytes_after_the_stream_are_an_error", " or stream.unused_data", ""),
    Broken("compressor", "test_a_stream_cut_off_anywhere_is_an_error", " or not stream.eof", ""),
    Broken(
        "compressor", "test_importing_it_loads_nothing_native", "from pydump.errors", "import numpy\nfrom pydump.errors"
    ),
    Broken(
        "compressor",
        "test_it_can_be_pickled_before_and_after_use",
        "    options: SkeletonOptions",
        "    __reduce__ = None",
    ),
    Broken("compressor", "test_its_options_have_help_and_valid_defaults", "1 is fastest, 9 smallest", ""),
    Broken("compressor", "test_its_options_have_help_and_valid_defaults", "option(1,", "option(0,"),
    Broken("compressor", "test_it_has_a_name", "low=1,", 'low=1, alias="--begin",'),
    Broken("compressor", "test_it_has_a_name", "low=1,", 'low=1, alias="--zlib-level",'),
    Broken(
        "arch", "test_importing_it_loads_nothing_native", "from pydump.hookspecs", "import numpy\nfrom pydump.hookspecs"
    ),
    Broken("arch", "test_its_notes_are_tables_without_overlaps", '"pc sp ptbr "', '"pc pc ptbr "'),
    Broken("arch", "test_its_notes_are_tables_without_overlaps", "run(112, 8", "run(32, 8"),
    Broken("arch", "test_its_numbers_are_such", "0xFEED", "0xFEED00"),
    Broken("arch", "test_its_numbers_are_such", "(4096,)", "(4000,)"),
    Broken("arch", "test_its_numbers_are_such", '= "skeleton"', '= "Skeleton"'),
    Broken("arch", "test_its_numbers_are_such", '= "skeleton"', '= "skeleton"; aliases = ("bones", "bones")'),
    Broken("arch", "test_its_numbers_are_such", '= "skeleton"', '= "skeleton"; aliases = ("amd64",)'),
    Broken("arch", "test_its_numbers_are_such", "\n\n@hookimpl", TWO_LINES),
    Broken("arch", "test_no_other_has_its_numbers", "0xFEED", "62"),
    Broken("arch", "test_it_knows_its_own_notes", "\n\n@hookimpl", EVERYBODY),
    Broken("arch", "test_it_fills_in_every_fact", "\n\n@hookimpl", ONE_NOTE),
    Broken("arch", "test_little_is_known_and_no_error", "\n\n@hookimpl", ADDRESS_SPACE),
    Broken("arch", "test_registers_lie_where_the_table_says", "\n\n@hookimpl", ALWAYS_BIG),
    Broken("arch", "test_registers_come_back", "\n\n@hookimpl", ONE_CPU),
    Broken("arch", "test_names_and_values_that_are_wrong", "\n\n@hookimpl", NO_NAMES),
    Broken("arch", "test_known_addresses_translate", "(1 << 56) - (1 << 12)", "(1 << 30) - (1 << 12)"),
    Broken("arch", "test_known_addresses_translate", "signed=True", "signed=False"),
    Broken("arch", "test_mappings_hold_the_known_addresses", "np.uint64(2) != 0", "np.uint64(2) == 4"),
    Broken("arch", "test_a_range_translates_as_its_pages_do", TARGET, TARGET + NO_RUNS),
    Broken(
        "arch",
        "test_damaged_tables_translate_to_something_or_nothing",
        "used, page =",
        "assert not entries.any() or entries.max() < 1 << 32\n        used, page =",
    ),
    Broken("executor", "test_results_come_in_order", "running.popleft().result()", "running.pop().result()"),
    Broken(
        "executor",
        "test_an_error_comes_when_all_before_it_have_been_seen",
        "except Broken",
        "except PydumpError:\n            return\n        except Broken",
    ),
    Broken("executor", "test_a_result_is_that_of_its_piece_until_the_next_one_is_asked_for", PROCESSES, THREADS),
    Broken("executor", "test_it_has_workers", "min(n_pieces, self._workers)", "self._workers + 1"),
    Broken("format", "test_it_knows_its_own_files_and_no_others", "head.startswith(MAGIC)", "bool(head)"),
    Broken("format", "test_a_file_cut_off_anywhere", SETTLED, PAST_THE_END),
    Broken("format", "test_a_damaged_file_gives_memory_or_an_error", DAMAGE, "KeyError"),
    Broken("format", "test_a_guest_comes_back", "        self.unit = 1\n", ""),
    Broken("format", HOSTILE, "header = backing.read", "header = bytearray(length) and backing.read"),
    Broken(
        "format",
        HOSTILE,
        "        header = backing",
        "        while length > backing.size: length -= 1\n        header = backing",
    ),
    Broken("format", "test_a_guest_comes_back", DATA, f"{DATA[:-1]} and bytes(batch.size),"),
    Broken(
        "format",
        "test_a_guest_of_several_batches_comes_back",
        DATA,
        f"{DATA[:-1]} and (bytes(batch.size) if batch.position else batch.data),",
    ),
    Broken(
        "format",
        "test_a_guest_of_several_batches_comes_back",
        DATA,
        f"{DATA[:-1]} and batch.data[: (4 << 20) - 1],",
    ),
    Broken(
        "format",
        "test_a_guest_of_several_batches_comes_back",
        "Hole(at, encoded.size)",
        "Extent(at, b'1' * encoded.size)",
    ),
    Broken(
        "format", "test_the_same_bytes_however_many_workers", DATA, f"{DATA[:-1]} and {PID} + bytes(batch.data[1:]),"
    ),
    Broken(
        "format", "test_the_same_bytes_however_many_workers", '"ram": [', '"time": __import__("time").time(), "ram": ['
    ),
    Broken("format", "test_the_same_bytes_down_a_pipe", DATA, f"{DATA[:-1]} and {PID} + bytes(batch.data[1:]),"),
    Broken("format", "test_the_same_bytes_down_a_pipe", PAYLOAD, BACKWARDS),
    Broken("format", "test_the_same_bytes_down_a_pipe", PAYLOAD, TOO_LONG),
    Broken("format", "test_a_guest_comes_back", "for note in guest.notes]", "for note in guest.notes[::-1]]"),
    Broken("format", "test_a_guest_comes_back", "bytes.fromhex(desc))", "bytes.fromhex(desc)[:200])"),
    Broken("format", "test_memory_that_was_left_out_stays_out", "bytes(len(buffer))", "b'\\xcc' * len(buffer)"),
    Broken("format", "test_memory_that_was_left_out_stays_out", "        buffer[:] = bytes(len(buffer))\n", ""),
    Broken("format", "test_forked_processes_read_at_once", READ, FILE_POSITION),
    Broken("format", "test_extents_keep_the_rules", "0 if batch.data else batch.size)", "7 * batch.size)"),
    Broken("format", "test_extents_keep_the_rules", "None, batch.size, 0", "None, 1, 0"),
    Broken("filter", "test_it_says_what_it_is", "MiB at the beginning of each RAM block", ""),
    Broken("filter", "test_it_says_what_it_is", "low=1)", 'low=1, alias="--exclude")'),
    Broken("filter", "test_classes_are_declared_and_lie_in_ram", "min(start + size, block.end)", "block.end + page"),
    Broken("source", "test_it_says_what_it_is", '= "skeleton"', '= "ske:leton"'),
    Broken("source", "test_open_rejects_an_invalid_argument", "(OSError, ValueError)", "OSError"),
    Broken("source", "test_open_rejects_an_invalid_argument", "cannot open {", "cannot open\\n{"),
    Broken("source", "test_all_of_its_ram_can_be_read", "MemoryMap.of([(0, size)])", "MemoryMap.of([(0, 2 * size)])"),
    Broken("source", "test_forked_processes_read_at_once", PREADV, SEEK_AND_READ),
    Broken("source", "test_holes_read_as_zeros", "\n    def close(self)", DATA_RANGES),
    Broken("storage", "test_what_is_written_is_there", "[done:], extent.offset + done", "[done:], extent.offset // 2"),
    Broken(
        "storage",
        "test_forked_processes_write_at_once",
        "isinstance(extent, Hole)",
        "__import__('multiprocessing').parent_process()",
    ),
    Broken("storage", "test_forked_processes_write_at_once", PWRITE, SEEK_AND_WRITE),
    Broken("storage", "test_what_is_written_is_there", "force: bool = False, sync: bool = True", "force: bool = False"),
    Broken("storage", "test_what_is_written_is_there", "            os.ftruncate(self._fd, size)\n", ""),
    Broken(
        "storage",
        "test_nothing_appears_before_commit",
        "return SkeletonSink(path,",
        "open(path, 'x'); return SkeletonSink(path,",
    ),
    Broken("storage", "test_what_is_kept_is_read", "[buffer[done:]], offset + done", "[buffer[done:]], offset // 2"),
    Broken("storage", "test_another_process_reopens_it", "SkeletonBacking, (self.path,)", "SkeletonBacking, ('none',)"),
    Broken(
        "storage",
        "test_forked_processes_read_at_once",
        PREADV.replace("paddr", "offset"),
        SEEK_AND_READ.replace("paddr", "offset"),
    ),
    Broken("storage", "test_what_is_not_there_is_an_error", "(OSError, ValueError)", "ValueError"),
    Broken("storage", "test_abort_leaves_nothing", "            os.unlink(self._temporary)", "            pass"),
    Broken(
        "storage", "test_commit_leaves_nothing_beside_it", "            os.unlink(self._temporary)", "            pass"
    ),
    Broken("storage", "test_what_is_there_stays_without_force", "if not force and", "if force and"),
    Broken("storage", "test_force_replaces_at_commit", "os.replace(self._temporary, self._path)", "pass"),
    Broken("storage", "test_a_hole_over_earlier_bytes_is_zeros", "zeros(self._end)", "zeros(0)"),
    Broken("storage", "test_retract_removes_what_appeared_and_nothing_else", "os.unlink(self._path)", "pass"),
    Broken("storage", "test_retract_removes_what_appeared_and_nothing_else", SAME, "self._made is not None"),
    Broken(
        "storage", "test_what_appears_meanwhile_stays_without_force", LINK, "os.replace(self._temporary, self._path)"
    ),
    Broken(
        "storage",
        "test_an_invalid_url_is_an_error_in_one_line",
        "except OSError as error:\n            raise SinkError",
        "except KeyError as error:\n            raise SinkError",
    ),
)


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Sequence[bool]:
    """Of each broken plugin, in the tests that its template has: did the one fail that is there for it?"""
    directory = tmp_path_factory.mktemp("broken")
    wanted = []
    for number, broken in enumerate(BROKEN):
        template, module = TEMPLATES / broken.role, f"pydump_{broken.role}_skeleton"
        code = (template / f"src/{module}/__init__.py").read_text()
        assert broken.good in code, broken
        (directory / f"bad_{number}.py").write_text(code.replace(broken.good, broken.bad).replace(*broken.also))
        own = (template / f"tests/test_{broken.role}_skeleton.py").read_text()
        (directory / f"test_bad_{number}.py").write_text(own.replace(module, f"bad_{number}"))
        wanted.append(f"test_bad_{number}.py::TestSkeleton::{broken.caught}")
    done = run_pytest("--tb=no", *wanted, directory=directory)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout[-4000:] + done.stderr
    return [bool(re.search(rf"^FAILED {re.escape(test)}\b", done.stdout, re.MULTILINE)) for test in wanted]


@pytest.mark.parametrize("number", range(len(BROKEN)), ids=lambda n: f"{BROKEN[n].role}-{BROKEN[n].caught}")
def test_a_broken_promise_is_found(number: int, failed: Sequence[bool]) -> None:
    assert failed[number], BROKEN[number]


def test_an_option_that_is_wrong_is_named() -> None:
    @dataclass(frozen=True, slots=True)
    class Options:
        level: int = option(1, help="")
        window: int = option(0, help="how far it looks", low=1, alias="--begin")

    class Bad(DummyCompressor):
        name = "bad"

    Bad.Options = Options
    assert faults_of_options(Bad) == [
        "the help of option level of bad is not a line of text: ''",
        "option window of bad does not take its own default: --begin must be a whole number from 1, not 0",
    ]
    assert faults_of_claims("compressor", Bad) == ["the flag --begin is taken by plugin core"]


def test_nothing_to_test_is_no_green_run(tmp_path: Path) -> None:
    done = kit("--pydump-plugin=core", directory=tmp_path)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "there is no plugin to test" in done.stdout


def test_a_broken_plugin_among_others_is_no_green_run(tmp_path: Path) -> None:
    install(tmp_path, "import nonsense")
    done = kit("-k", "test_it_loads", directory=tmp_path)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "plugin bad does not work: ModuleNotFoundError: No module named 'nonsense'" in done.stdout
    assert re.search(r"^1 failed, \d+ passed", done.stdout, re.MULTILINE)


def test_a_storage_is_tested(tmp_path: Path) -> None:
    code = (TEMPLATES / "storage/src/pydump_storage_skeleton/__init__.py").read_text()
    install(tmp_path, code.replace("    def abort(self)", "    def abort(self): pass\n    def not_abort(self)"))
    done = kit("--pydump-plugin=bad", directory=tmp_path)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "abort leaves nothing" in done.stdout


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
