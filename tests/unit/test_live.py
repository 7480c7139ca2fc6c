"""In which order a live guest is captured: no mistake of the user pauses it, and it always runs again."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

import pydump
from pydump.builtin.local import LocalExecutor
from pydump.engine.run import run_dump
from pydump.errors import PlanError, PydumpError, ReadError, SinkError, SourceError
from pydump.interfaces.image import MemoryImage
from pydump.interfaces.live import Capture, LiveGuest, Narrow
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap
from pydump.model.progress import ProgressCallback
from pydump.model.report import DumpReport
from pydump.model.request import Request
from pydump.registry import Registry
from pydump.testing import guests

RAM = {0: bytes(guests.memory(64)), 1 << 20: bytes(guests.memory(8))}


class Torn(pydump.BytesImage):
    """Memory that cannot be read."""

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        raise ReadError(paddr, len(buffer), "it is gone")


class Recorded(LiveGuest):
    """A guest that notes what is done to it.

    Args:
        fails: At what its capture fails: "capture", "read", "release", or "" for nothing.
        holds: Whether it is paused until it is released.
    """

    def __init__(self, fails: str = "", *, holds: bool = True) -> None:
        self.events: list[str] = []
        self.wanted = MemoryMap()
        self.fails = fails
        self.holds = holds

    def view(self) -> MemoryImage:
        return Torn(Guest(MemoryMap(), byte_order="little"), RAM)

    def capture(
        self, wanted: MemoryMap, progress: ProgressCallback | None = None, narrow: Narrow | None = None
    ) -> Capture:
        self.wanted = wanted
        return RecordedCapture(self)

    def close(self) -> None:
        self.events.append("closed")


class RecordedCapture(Capture):
    paused_seconds = 0.25
    consistent = True

    def __init__(self, guest: Recorded) -> None:
        self._guest = guest

    @property
    def holds(self) -> bool:
        return self._guest.holds

    def __enter__(self) -> MemoryImage:
        self._guest.events.append("paused")
        if self._guest.fails == "capture":
            raise SourceError("it cannot be captured")
        image = Torn if self._guest.fails == "read" else pydump.BytesImage
        return image(Guest(MemoryMap(), byte_order="little"), RAM)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._guest.events.append("released" if kind is None else "undone")
        if self._guest.fails == "release" and kind is None:
            raise SourceError("it does not run again")


def dump(live: Recorded, registry: Registry, target: Path, **wanted: Any) -> DumpReport:
    request = Request(format="dummy", compression="dummy", arch="dummy", **wanted)
    return run_dump(live, "live", str(target), request, registry, executor=LocalExecutor(1), reached=live.events.append)


@pytest.mark.parametrize("holds", [True, False], ids=["read in place", "copied"])
def test_a_guest_is_released_before_its_dump_appears(registry: Registry, tmp_path: Path, holds: bool) -> None:
    live = Recorded(holds=holds)
    report = dump(live, registry, tmp_path / "out")
    middle = ["released", "captured"] if holds else ["captured", "released"]
    assert live.events == ["paused", *middle, "written"]
    assert (report.paused_seconds, report.consistent) == (0.25, True)
    assert live.wanted.ranges().size == sum(map(len, RAM.values()))


def test_what_is_not_wanted_is_not_captured(registry: Registry, tmp_path: Path) -> None:
    live = Recorded()
    dump(live, registry, tmp_path / "out", begin=1 << 20)
    assert list(live.wanted.ranges()) == [(1 << 20, (1 << 20) + 8 * 4096)]


@pytest.mark.parametrize(
    "wanted",
    [
        {"begin": 1 << 40},
        {"paging": True},
        {"exclude": frozenset({"nothing"})},
        {"options": {"dummy": {"x": 1}}},
        {"split": 2},
    ],
    ids=lambda wanted: next(iter(wanted)),
)
def test_what_cannot_be_done_does_not_pause_the_guest(
    registry: Registry, tmp_path: Path, wanted: dict[str, Any]
) -> None:
    live = Recorded()
    with pytest.raises(PydumpError):
        dump(live, registry, tmp_path / "out%d", **wanted)
    assert live.events == [] and not list(tmp_path.iterdir())


def test_an_output_that_cannot_be_opened_does_not_pause_the_guest(registry: Registry, tmp_path: Path) -> None:
    live = Recorded()
    (tmp_path / "out").write_text("mine")
    with pytest.raises((PlanError, SinkError)):
        dump(live, registry, tmp_path / "out")
    assert live.events == [] and (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize(
    ("fails", "events"),
    [
        ("capture", ["paused"]),
        ("read", ["paused", "undone"]),
        ("release", ["paused", "captured", "released"]),
    ],
)
def test_nothing_is_left_where_a_capture_fails(
    registry: Registry, tmp_path: Path, fails: str, events: list[str]
) -> None:
    live = Recorded(fails, holds=False)
    with pytest.raises(PydumpError):
        dump(live, registry, tmp_path / "out")
    assert live.events == events and not list(tmp_path.iterdir())


def test_a_dry_run_does_not_pause_the_guest_or_read_it(registry: Registry, tmp_path: Path) -> None:
    live = Recorded()
    request = Request(format="dummy", compression="dummy", arch="dummy", dry_run=True)
    report = run_dump(live, "live", str(tmp_path / "out"), request, registry)
    assert live.events == [] and report.ram_size == sum(map(len, RAM.values()))
    assert report.paused_seconds is None


def test_a_check_of_a_guest_captures_it(tmp_path: Path) -> None:
    live = Recorded(holds=False)
    assert pydump.survey(live, arch="x86_64", workers=1).blocks == tuple((at, len(data)) for at, data in RAM.items())
    assert live.events == ["paused", "released", "closed"]


@pytest.mark.parametrize("holds", [True, False], ids=["read in place", "copied"])
def test_a_guest_that_waits_is_read_at_full_speed(
    registry: Registry, tmp_path: Path, holds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("pydump.engine.pace.time.sleep", slept.append)
    request = Request(format="dummy", compression="dummy", arch="dummy", max_rate=1)
    live = Recorded(holds=holds)
    report = run_dump(live, "live", str(tmp_path / "out"), request, registry, executor=LocalExecutor(1))
    assert (sum(slept) == 0) == holds
    assert any("--max-rate had no effect" in warning for warning in report.warnings) == holds
