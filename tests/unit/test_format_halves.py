"""Formats that are only read or only written, what a reader gets, and what is said of what an output cannot hold."""

from __future__ import annotations

import gzip
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pydump.builtin.local import LocalExecutor
from pydump.builtin.raw import BytesImage
from pydump.engine.open import open_source
from pydump.engine.planner import choose, make_plan
from pydump.engine.run import run_dump
from pydump.errors import PlanError, PluginError, PydumpError, UnsupportedError
from pydump.hookspecs import hookimpl
from pydump.interfaces.backing import Backing
from pydump.interfaces.format import Format, Opened
from pydump.interfaces.image import MemoryImage
from pydump.interfaces.writer import Writer
from pydump.model.guest import Cpu, Guest
from pydump.model.memory import MemoryMap, Ranges
from pydump.model.note import Note
from pydump.model.plan import Plan
from pydump.model.request import Request
from pydump.registry import Registry, registry_of
from pydump.testing import dummy
from pydump.testing.sources import Filtered, guest
from tape_format import MAGIC, PlainFormat, PlainWriter, TapeFormat, TapeImage


def registry(*formats: type[Format]) -> Registry:
    """The formats, and the dummies of the other roles."""

    @hookimpl
    def pydump_register_formats() -> list[type[Format]]:
        return list(formats)

    plugin = SimpleNamespace(pydump_register_formats=pydump_register_formats)
    return registry_of([("dummy", dummy), ("formats", plugin)])


REGISTRY = registry(TapeFormat, PlainFormat)


@pytest.fixture
def tape(tmp_path: Path) -> Path:
    path = tmp_path / "tape"
    path.write_bytes(MAGIC + bytes(range(256)))
    return path


def read(source: MemoryImage, paddr: int, size: int) -> bytes:
    buffer = bytearray(size)
    source.read_into(paddr, memoryview(buffer))
    return bytes(buffer)


# --- halves ---


def test_a_format_says_which_halves_it_has() -> None:
    assert (TapeFormat.reads(), TapeFormat.writes()) == (True, False)
    assert (PlainFormat.reads(), PlainFormat.writes()) == (False, True)
    assert (dummy.DummyFormat.reads(), dummy.DummyFormat.writes()) == (True, True)


def test_a_format_without_a_writer_is_refused_before_anything_is_read() -> None:
    class Unread(BytesImage):
        def guest(self) -> Guest:
            raise AssertionError("the source was asked")

    source = Unread(Guest(MemoryMap.of([])), {0: b"x"})
    with pytest.raises(UnsupportedError, match="^format tape can be read but not written; available: dummy, plain$"):
        make_plan(source, choose(Request(format="tape"), REGISTRY), REGISTRY)


def test_a_format_without_a_reader_is_refused(tmp_path: Path) -> None:
    class Recognised(PlainFormat):
        name = "recognised"

        @classmethod
        def detect(cls, head: bytes) -> bool:
            return head.startswith(b"seen")

    (tmp_path / "file").write_bytes(b"seen")
    with pytest.raises(UnsupportedError, match="format recognised can be written but not read"):
        open_source(str(tmp_path / "file"), registry(Recognised))


def test_an_unknown_file_is_answered_with_the_formats_that_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"unheard of")
    with pytest.raises(PydumpError, match="no installed format reads it; installed: dummy, tape;"):
        open_source(str(tmp_path / "file"), REGISTRY)


class NoHalf(Format):
    name = "none"


class Hidden(TapeFormat):
    detect = Format.detect


class Boastful(PlainFormat):
    carries = frozenset({"notes", "luggage"})


@pytest.mark.parametrize(
    ("cls", "reason"),
    [
        (NoHalf, "implements neither open nor writer"),
        (Hidden, "does not implement detect"),
        (Boastful, "carries luggage, which is not known"),
    ],
)
def test_a_format_that_cannot_work_is_broken(cls: type[Format], reason: str) -> None:
    with pytest.raises(PluginError, match=reason):
        registry(cls)


# --- what a reader gets ---


def test_a_reader_gets_its_options(tape: Path) -> None:
    with open_source(str(tape), REGISTRY, {"tape": {"start": 0x1000}}) as source:
        assert read(source, 0x1001, 2) == b"\1\2"
    with pytest.raises(PlanError, match="--tape-start must be a whole number, not 'x'"):
        open_source(str(tape), REGISTRY, {"tape": {"start": "x"}})
    with pytest.raises(PlanError, match="tape has no option 'end'; available: start"):
        open_source(str(tape), REGISTRY, {"tape": {"end": 1}})


def test_reader_options_of_another_format_are_refused(tape: Path, tmp_path: Path) -> None:
    (tmp_path / "dump").write_bytes(dummy.MAGIC)
    options = {"tape": {"start": 1}}
    with pytest.raises(PlanError, match="--tape-start is of format tape, and .*dump is dummy"):
        open_source(str(tmp_path / "dump"), REGISTRY, options)


def test_a_reader_opens_files_beside_its_own_and_no_others(tape: Path, tmp_path: Path) -> None:
    (tmp_path / "label").write_bytes(gzip.compress(b"a label"))
    with open_source(str(tape), REGISTRY) as source:
        assert isinstance(source, TapeImage)
        assert source.label is not None and source.label.read(0, 7) == b"a label", "it is unpacked as its own is"
        assert source.strange == [None] * 5
        source.label.close()


def test_what_a_reader_opened_is_closed_when_it_fails(tape: Path, tmp_path: Path) -> None:
    seen: list[Backing] = []

    class Failing(TapeFormat):
        @classmethod
        def open(cls, opened: Opened) -> MemoryImage:
            found = opened.sibling("label")
            assert found is not None
            seen.extend([*opened.files, found])
            raise UnsupportedError("no")

    (tmp_path / "label").write_bytes(b"a label")
    with pytest.raises(UnsupportedError):
        open_source(str(tape), registry(Failing))
    assert [getattr(backing, "fd", None) for backing in seen] == [-1, -1]


# --- what an output cannot hold ---


def warnings_of(source: MemoryImage, registry: Registry, **wanted: Any) -> tuple[str, ...]:
    return make_plan(source, choose(Request(format="plain", **wanted), registry), registry).plan.warnings


def test_what_the_output_cannot_hold_is_named() -> None:
    left_out = Ranges.of([(0x104000, 0x120000)])
    lines = warnings_of(Filtered(guest("64-bit, little-endian"), left_out), REGISTRY)
    notes = "4 notes (TEST, OTHER, CORE, LONG, with the registers of each CPU)"
    assert lines[-2:] == (
        f"plain has no place for {notes}, VMCOREINFO and the architecture",
        "114688 bytes that are excluded are zero in the output: plain cannot say which",
    )


def test_what_the_output_holds_is_not_named() -> None:
    class Full(PlainFormat):
        carries = Format.carries

    assert not [line for line in warnings_of(guest("64-bit, little-endian"), registry(Full)) if "plain" in line]


def test_registers_are_not_named_where_the_format_has_a_place_for_them() -> None:
    class Registers(PlainFormat):
        carries = frozenset({"registers", "arch"})

    arch = dummy.DummyArch
    notes = (*arch.cpu_notes((Cpu(0, {}),), arch.byte_order), Note("QEMU", 0, b""))
    facts = Guest(MemoryMap.of([]), arch=arch.name, notes=notes)
    lines = warnings_of(BytesImage(facts, {0: b"x"}), registry(Registers))
    assert lines[-1] == "plain has no place for 1 note (QEMU)"


def test_unreadable_memory_is_named(tmp_path: Path) -> None:
    class Torn(BytesImage):
        def unreadable(self) -> Ranges:
            return Ranges.of([(0, 0x2000)])

    source = Torn(guest("64-bit, little-endian").guest(), {0: bytes(0x10000)})
    assert warnings_of(source, REGISTRY)[-1] == (
        "8192 bytes that are unreadable are zero in the output: plain cannot say which"
    )
    report = run_dump(
        source, "torn", str(tmp_path / "out"), Request(format="plain"), REGISTRY, executor=LocalExecutor(1)
    )
    assert not report.complete


def test_pages_are_not_filtered_into_zeros_that_nobody_could_tell() -> None:
    from pydump.engine.losses import refuse_zeros_for_pages

    plan = make_plan(guest("64-bit, little-endian"), choose(Request(format="plain"), REGISTRY), REGISTRY).plan
    with pytest.raises(UnsupportedError, match="plain cannot say which pages were left out"):
        refuse_zeros_for_pages(PlainFormat, plan, None, frozenset({"free"}))
    refuse_zeros_for_pages(PlainFormat, plan, None, frozenset({"zero"}))

    class Apart(PlainFormat):
        """Leaves the pages out; its readers find no RAM there."""

        @classmethod
        def writer(cls, plan: Plan, compressor: Any) -> Writer:
            writer = PlainWriter(plan)
            writer.stored = plan.readable()
            return writer

    refuse_zeros_for_pages(Apart, plan, None, frozenset({"free"}))
    assert (
        "are not RAM in the output"
        in warnings_of(Filtered(guest("64-bit, little-endian"), Ranges.of([(0x104000, 0x120000)])), registry(Apart))[-1]
    )
