"""Which way to guest memory is chosen, by the options and by what the host offers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from pydump.errors import PlanError, SourceError
from pydump.model.memory import RamBlock, Ranges
from pydump_qemu_stream.host import Layout, Region
from pydump_qemu_stream.process import ImpossibleError
from pydump_source_qemu.choose import MAX_REST, Choice, choose
from pydump_source_qemu.options import QemuOptions
from pydump_source_qemu.source import QemuSource

MiB = 1 << 20
SIZE = 64 * MiB
HIDDEN = "no permission"
Shared = Callable[[int], Layout]


def private(rest: int = 0) -> Layout:
    """Memory of the QEMU process, and ``rest`` bytes that only QEMU can read."""
    region = Region(0, SIZE, 0x7F00_0000_0000, -1, -1, True, -1, 0)
    return Layout((region,), (RamBlock(1 << 32, rest),) if rest else (), "process")


def without_a_file() -> Layout:
    """Shared memory of which this user cannot see what was written to."""
    return Layout((Region(0, SIZE, 0x7F00_0000_0000, 0, -1, False, -1, 0),), (), "process")


@pytest.fixture
def shared() -> Iterator[Shared]:
    """Makes shared memory whose first so many bytes were written to."""
    fd = os.memfd_create("ram")
    os.ftruncate(fd, SIZE)

    def layout(written: int) -> Layout:
        for at in range(0, written, MiB):
            os.pwrite(fd, b"\1" * MiB, at)
        return Layout((Region(0, SIZE, 0x7F00_0000_0000, -1, -1, False, fd, 0),), (), "shared")

    yield layout
    os.close(fd)


@dataclass
class Host:
    """What a host offers.

    Attributes:
        memory: Where memory lies, or None where it cannot be reached.
        most: Bytes that are shared.
        spare: Bytes that it can spare.
        full: Why there is no room for a copy.
        unneeded: What need not be captured.
        needed: What room was asked for.
        harm: Whether a dump does harm.
    """

    memory: Layout | None
    most: int = 0
    spare: int = 1 << 40
    full: str | None = None
    unneeded: Ranges = field(default_factory=Ranges.empty)
    needed: int = -1
    harm: bool = False

    def must_not_dump(self) -> bool:
        return self.harm

    def layout(self) -> Layout:
        if self.memory is None:
            raise ImpossibleError(HIDDEN, hint="be root")
        return self.memory

    def may_leave_out(self, layout: Layout) -> Ranges:
        return self.unneeded

    def shared(self) -> int:
        return self.most

    def spare_memory(self) -> int:
        return self.spare

    def why_no_room(self, size: int) -> str | None:
        self.needed = size
        return self.full


def chosen(host: Host, *, running: bool = True, **options: Any) -> Choice:
    return choose(QemuOptions(**options), running, host)


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pause": "none", "access": "stream"}, "--pause none needs --qemu-access shared or process"),
        ({"pause": "snapshot", "access": "process"}, "leave --qemu-access out"),
        ({"pause": "snapshot", "access": "shared"}, "leave --qemu-access out"),
        ({"pause": "none", "scratch": "/tmp"}, "--scratch has no effect on --pause none"),
        ({"pause": "none", "memory_limit": 9}, "--memory-limit has no effect on --pause none"),
        ({"pause": "none", "timeout": 9.0}, "--timeout has no effect on --pause none"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any], message: str, running: bool) -> None:
    with pytest.raises(PlanError, match=message):
        chosen(Host(private()), running=running, **options)
    with pytest.raises(PlanError, match=message):  # before anybody speaks to a guest: there is none
        QemuSource.open("/nowhere", QemuOptions(**options))


def test_a_directory_for_a_copy_is_refused_where_memory_is_read_in_place() -> None:
    option = {"scratch": "/tmp"}
    with pytest.raises(PlanError, match="--scratch has no effect on --pause full: nothing is copied"):
        chosen(Host(private()), pause="full", **option)
    # What only QEMU can send is kept.
    assert chosen(Host(private(rest=MiB)), pause="full", **option).way == "in place"
    assert chosen(Host(None), pause="full", **option).way == "stream"
    # Of a guest that is paused already, nothing is copied in any case.
    assert chosen(Host(private()), pause="full", running=False, **option).way == "in place"


@pytest.mark.parametrize("access", ["auto", "process"])
@pytest.mark.parametrize(
    ("pause", "running", "way", "runs_on"),
    [
        ("auto", True, "copy", False),
        ("copy", True, "copy", False),
        ("full", True, "in place", False),
        ("none", True, "in place", True),
        ("auto", False, "in place", False),
        ("copy", False, "in place", False),
        ("full", False, "in place", False),
        ("none", False, "in place", False),
    ],
)
def test_memory_within_reach_is_copied_or_read_in_place(
    access: str, pause: str, running: bool, way: str, runs_on: bool
) -> None:
    choice = chosen(Host(private()), running=running, pause=pause, access=access)
    assert (choice.way, choice.runs_on, choice.cautions, choice.warnings) == (way, runs_on, (), ())
    assert choice.layout == private()


def test_a_copy_needs_room_for_what_may_hold_data(shared: Shared) -> None:
    host = Host(shared(2 * MiB))
    choice = chosen(host)
    assert choice.room == Ranges.of([(0, 2 * MiB)])
    assert host.needed == 2 * MiB
    host = Host(private(), unneeded=Ranges.of([(MiB, 60 * MiB)]))
    assert chosen(host).room == Ranges.of([(0, MiB), (60 * MiB, SIZE)])
    assert host.needed == 5 * MiB
    host = Host(private(rest=3 * MiB))
    assert chosen(host).room.size == SIZE
    assert host.needed == SIZE + 3 * MiB


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("pause", ["auto", "copy", "full"])
def test_qemu_sends_memory_that_is_out_of_reach(pause: str, running: bool) -> None:
    assert chosen(Host(None), running=running, pause=pause) == Choice("stream")
    assert chosen(Host(private()), running=running, pause=pause, access="stream") == Choice("stream")


@pytest.mark.parametrize("access", ["shared", "process"])
def test_a_way_that_the_user_named_and_is_not_there_is_an_error(access: str) -> None:
    with pytest.raises(ImpossibleError, match=HIDDEN) as raised:
        chosen(Host(None), access=access)
    assert raised.value.hint == "be root; or take --qemu-access stream"


@pytest.mark.parametrize("running", [True, False])
def test_a_guest_that_shall_run_on_is_not_paused_for_lack_of_another_way(running: bool) -> None:
    with pytest.raises(ImpossibleError, match=HIDDEN) as raised:
        chosen(Host(None), running=running, pause="none")
    assert raised.value.hint == "be root"


def test_a_guest_that_shall_run_on_may_be_paused_for_its_firmware() -> None:
    assert chosen(Host(private(MAX_REST)), pause="none").way == "in place"
    with pytest.raises(ImpossibleError, match="QEMU pauses the guest to send 65 MiB"):
        chosen(Host(private(MAX_REST + MiB)), pause="none")
    assert chosen(Host(private(MAX_REST + MiB)), pause="none", running=False).way == "in place"


def test_without_room_for_a_copy_the_guest_stays_paused() -> None:
    choice = chosen(Host(private(), full="none at all"))
    assert (choice.way, choice.runs_on) == ("in place", False)
    assert choice.warnings == ("no room for a copy, so the guest stays paused for the whole dump: none at all",)


@pytest.mark.parametrize("options", [{"pause": "copy"}, {"scratch": "/tmp"}, {"pause": "copy", "scratch": "/tmp"}])
def test_without_room_for_the_copy_that_the_user_wants_it_is_an_error(options: dict[str, str]) -> None:
    with pytest.raises(SourceError, match="no room for a copy of guest memory: none at all"):
        chosen(Host(private(), full="none at all"), **options)


@pytest.mark.parametrize("pause", ["auto", "full", "none"])
def test_reading_memory_that_the_host_must_allocate_is_warned_of(pause: str) -> None:
    (caution,) = chosen(Host(without_a_file()), pause=pause).cautions
    assert "allocate up to 64 MiB" in caution and "root can" in caution


@pytest.mark.parametrize("access", ["auto", "stream"])
def test_a_snapshot_of_private_memory_costs_nothing(access: str) -> None:
    assert chosen(Host(None), pause="snapshot", access=access) == Choice("snapshot")


@pytest.mark.parametrize(
    ("written", "spare", "way", "caution"),
    [
        (SIZE, 1 << 40, "snapshot", None),
        (48 * MiB, 1 << 40, "snapshot", "allocate 16 MiB"),
        (32 * MiB, 1 << 40, "copy", "allocate 32 MiB for the guest's shared memory, for good, so 32 MiB are copied"),
        (2 * MiB, 1 << 40, "copy", "allocate 62 MiB for the guest's shared memory, for good, so 2 MiB are copied"),
        (48 * MiB, 15 * MiB, "copy", "allocate 16 MiB for the guest's shared memory, for good, so 48 MiB are copied"),
    ],
)
def test_a_snapshot_that_costs_more_than_a_copy_is_a_copy(
    shared: Shared, written: int, spare: int, way: str, caution: str | None
) -> None:
    choice = chosen(Host(shared(written), most=SIZE, spare=spare), pause="snapshot")
    assert choice.way == way
    assert len(choice.cautions) == (caution is not None)
    assert caution is None or caution in choice.cautions[0]


@pytest.mark.parametrize(("memory", "access"), [(None, "auto"), (private(), "stream")])
def test_a_snapshot_is_taken_and_warned_of_where_memory_cannot_be_copied(memory: Layout | None, access: str) -> None:
    choice = chosen(Host(memory, most=SIZE), pause="snapshot", access=access)
    assert choice.way == "snapshot"
    assert "up to 64 MiB" in choice.cautions[0]


def test_a_paused_guest_needs_no_snapshot(shared: Shared) -> None:
    choice = chosen(Host(shared(2 * MiB), most=SIZE), running=False, pause="snapshot")
    assert (choice.way, choice.runs_on, choice.cautions) == ("in place", False, ())


def test_where_a_dump_does_harm_auto_is_a_snapshot() -> None:
    assert chosen(Host(private(), harm=True)) == Choice("snapshot")
    costly = chosen(Host(private(), harm=True, most=SIZE))
    assert costly.way == "snapshot"
    assert "allocate up to 64 MiB" in costly.cautions[0]
    for options in ({"pause": "copy"}, {"access": "process"}):
        assert chosen(Host(private(), harm=True), **options).way == "copy"
    assert chosen(Host(private(), harm=True), running=False).way == "in place"
