"""Pages that are left out when a running Linux guest is captured."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from judges import require_drgn
from lab.boot import BOOT_TIMEOUT, MACHINES, Guest, Qmp, continued
from lab.counting import MARK, counting_guest

import pydump as api
from pydump.engine.narrow import Narrowing
from pydump.engine.open import open_source
from pydump.interfaces.image import MemoryImage
from pydump.interfaces.live import LiveGuest
from pydump.model.check import Check
from pydump.model.memory import Ranges
from pydump.model.request import Request
from pydump.registry import installed
from pydump_filter_linux import LinuxFilter

Pydump = Callable[..., subprocess.CompletedProcess[str]]
CLASSES = frozenset({"cache", "cache-private", "user", "free", "zero"})
#: Ways that read memory where it lies.
ACCESS = ("shared", "process")


@dataclasses.dataclass(frozen=True)
class Linux:
    """A Linux guest that runs.

    Attributes:
        qmp: The test's monitor.
        source: What pydump calls it.
    """

    qmp: Qmp
    source: str

    @property
    def state(self) -> str:
        """Its run state, by QEMU."""
        return str(self.qmp.command("query-status")["status"])


@pytest.fixture(scope="module")
def linux(guest: Callable[[str], Guest], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Linux]:
    """An x86_64 guest with page cache, programs and free memory that it has written to."""
    booted = guest("x86_64")
    machine, kernels = MACHINES["x86_64"], booted.vmlinux.parent
    directory = tmp_path_factory.mktemp("linux")
    more = (
        "-qmp", f"unix:{directory}/pydump.sock,server=on,wait=off",
        "-kernel", str(kernels / "kernel"), "-initrd", str(kernels / "initramfs.gz"),
        "-append", f"console={machine.console} panic=-1 loglevel=6",
    )  # fmt: skip
    with continued(booted, directory, *more, backend="memory-backend-memfd,share=on") as (qmp, _):
        qmp.command("cont")
        yield Linux(qmp, f"qmp:{directory}/pydump.sock")


def read(source: MemoryImage, ranges: Ranges) -> bytes:
    """All of some memory."""
    data = bytearray(ranges.size)
    source.read_runs(list(ranges), memoryview(data))
    return bytes(data)


@pytest.mark.parametrize("access", ACCESS)
def test_what_is_left_out_is_what_filtering_qemus_dump_leaves_out(linux: Linux, tmp_path: Path, access: str) -> None:
    registry = installed()
    narrowing = Narrowing(Request(exclude=CLASSES), registry)
    states = []

    def narrow(image: MemoryImage, *, paused: bool) -> Ranges:
        states.append((linux.state, paused))
        if paused:  # so QEMU's dump is of the same moment
            linux.qmp.command("dump-guest-memory", paging=False, protocol=f"file:{tmp_path}/elf")
        return narrowing(image, paused=paused)

    with open_source(linux.source, registry, {"qmp": {"pause": "copy", "access": access}}) as live:
        assert isinstance(live, LiveGuest)
        capture = live.capture(live.view().guest().memory, None, narrow)
        with capture as source:
            assert linux.state == "running"
        assert linux.state == "running"
        assert capture.consistent
        assert states == [("running", False), ("paused", True)]
        assert not api.dump(tmp_path / "elf", tmp_path / "filtered", dump_level=31, compression="none").warnings
        left_out = source.excluded()
        with open_source(str(tmp_path / "filtered"), registry) as filtered:
            assert left_out == filtered.excluded()
        memory = source.guest().memory.ranges()
        assert left_out.size > memory.size // 2
        assert not any(read(source, left_out))
        with open_source(str(tmp_path / "elf"), registry) as whole:
            assert whole.guest().memory.ranges() == memory
            kept = memory.subtract(left_out)
            assert read(source, kept) == read(whole, kept)


@pytest.mark.parametrize("form", ["kdump", "elf"])
def test_a_filtered_capture_classifies_while_the_guest_is_paused_and_not_again(
    linux: Linux, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    states = []
    classify = LinuxFilter.classify

    def noted(*arguments: Any) -> Any:
        states.append(linux.state)
        return classify(*arguments)

    monkeypatch.setattr(LinuxFilter, "classify", noted)
    options = {"qmp": {"pause": "copy"}}
    report = api.dump(linux.source, tmp_path / "vmcore", format=form, dump_level=31, options=options)
    assert states == ["running", "paused"]
    assert linux.state == "running" and report.consistent
    assert report.checks and all(check.passed for check in report.checks)
    sizes = dict(report.excluded_classes)
    assert sizes["free"] > 1 << 20 and sizes["cache"] > 1 << 20
    with open_source(str(tmp_path / "vmcore"), installed()) as written:
        assert written.excluded().size == report.excluded_size


def test_where_a_check_fails_everything_is_captured(
    linux: Linux, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classify = LinuxFilter.classify

    def failed(*arguments: Any) -> Any:
        return dataclasses.replace(classify(*arguments), checks=(Check("free pages", False, "none at all"),))

    monkeypatch.setattr(LinuxFilter, "classify", failed)
    registry = installed()
    narrowing = Narrowing(Request(exclude=CLASSES), registry)
    with open_source(linux.source, registry, {"qmp": {"pause": "copy"}}) as live:
        assert isinstance(live, LiveGuest)
        with live.capture(live.view().guest().memory, None, narrowing) as image:
            assert not image.excluded()
    report = api.dump(linux.source, tmp_path / "vmcore", dump_level=31, options={"qmp": {"pause": "copy"}})
    assert any("nothing is left out" in warning for warning in report.warnings)
    assert linux.state == "running"


@pytest.mark.parametrize("how", [("--qemu-access", "stream"), ("--pause", "full"), ("--pause", "copy")])
def test_every_way_leaves_pages_out(linux: Linux, tmp_path: Path, pydump: Pydump, how: tuple[str, str]) -> None:
    pydump("dump", "-d", "31", *how, linux.source, tmp_path / "vmcore")
    assert linux.state == "running"
    found = json.loads(pydump("info", "--json", tmp_path / "vmcore").stdout)
    assert found["dump_level"] == 31
    assert pydump("dmesg", tmp_path / "vmcore").stdout.startswith("[    0.000000] Linux version")


def test_drgn_reads_the_guest_while_it_runs(
    linux: Linux, guest: Callable[[str], Guest], pydump: Pydump, tmp_path: Path
) -> None:
    require_drgn()
    script = tmp_path / "script.py"
    script.write_text("from drgn.helpers.linux import for_each_task\nprint(len(list(for_each_task(prog))))")
    vmlinux = guest("x86_64").vmlinux
    linux.qmp.stops()
    assert int(pydump("shell", linux.source, script, "--vmlinux", vmlinux).stdout) > 40
    assert linux.state == "running"


@pytest.mark.parametrize("access", ACCESS)
def test_many_reads_do_not_pause_the_guest(linux: Linux, access: str) -> None:
    with api.open(linux.source, options={"qmp": {"access": access}}) as live:
        linux.qmp.stops()
        assert any(any(live.read(0x1000000 + 0x1000 * number, 4096)) for number in range(200))
        assert linux.qmp.stops() == 0
    assert linux.state == "running"


def test_the_log_is_followed_past_a_reset_and_the_guest_is_not_paused(linux: Linux) -> None:
    """Source of the messages: unknown_nmi_error in arch/x86/kernel/nmi.c."""
    command = [sys.executable, "-m", "pydump", "dmesg", "--follow", linux.source]
    with contextlib.ExitStack() as stack:
        followed = stack.enter_context(subprocess.Popen(command, stdout=-1, stderr=subprocess.STDOUT, text=True))
        stack.callback(followed.kill)
        timer = threading.Timer(BOOT_TIMEOUT, followed.kill)
        timer.start()
        stack.callback(timer.cancel)

        def until(words: str) -> str:
            assert followed.stdout is not None
            return next((line for line in followed.stdout if words in line), "it ended")

        assert until("Linux version").startswith("[    0.000000]")
        until("Run /init as init process")
        linux.qmp.stops()
        for _ in range(2):
            linux.qmp.command("inject-nmi")
            until("NMI received for unknown reason")
        assert linux.qmp.stops() == 0
        linux.qmp.command("system_reset")
        assert until("reset") == "pydump: the guest was reset: its log begins anew\n"
        assert until("Linux version").startswith("[    0.000000]")
        until("Run /init as init process")
        linux.qmp.command("inject-nmi")
        until("NMI received for unknown reason")
        followed.send_signal(signal.SIGINT)
        assert "pydump" not in followed.communicate(timeout=30)[0]  # at most the rest of what the kernel said
    assert followed.returncode == 0
    assert linux.state == "running"


def test_two_pages_that_are_written_together_stay_in_step_in_a_filtered_copy(
    guest: Callable[[str], Guest], tmp_path: Path
) -> None:
    """A program of the guest counts in both. The guest states no VMCOREINFO: it is found before the guest is paused."""
    kernel = guest("x86_64").vmlinux.with_name("kernel")
    with counting_guest(tmp_path, kernel, fill=32) as (_, source):
        counted = []
        for _ in range(5):
            with open_source(source, installed(), {"qmp": {"pause": "copy"}}) as live:
                assert isinstance(live, LiveGuest)
                narrowing = Narrowing(Request(exclude=CLASSES - {"user"}), installed())
                capture = live.capture(live.view().guest().memory, None, narrowing)
                with capture as image:
                    pass
                assert capture.consistent
                assert image.excluded().size > image.guest().memory.size // 2
                counted.append(counters(image))
            assert [first - second in (0, 1) for first, second in counted] == [True] * len(counted)
        assert counted == sorted(set(counted))
        report = api.dump(source, tmp_path / "vmcore", dump_level=31, options={"qmp": {"pause": "copy"}}, sync=False)
        assert dict(report.excluded_classes)["cache"] > 31 << 20
        assert report.consistent and not report.warnings


def counters(memory: MemoryImage) -> tuple[int, int]:
    """What the counting program has written to its two pages."""
    found = []
    for start, end in memory.guest().memory.ranges().subtract(memory.excluded()):
        data = bytearray(end - start)
        memory.read_into(start, memoryview(data))
        found += [int.from_bytes(data[at + 16 : at + 24], "little") for at in range(0, len(data), 4096)
                  if data.startswith(MARK, at)]  # fmt: skip
    assert len(found) == 2
    return max(found), min(found)
