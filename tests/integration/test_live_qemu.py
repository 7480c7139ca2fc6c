"""Captures of guests that run under QEMU."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from judges import require
from lab.live import SWEEP, Live, in_step, live_guest, swept, wait_for

import pydump as api

Pydump = Callable[..., subprocess.CompletedProcess[str]]
HERE = Path(__file__).parent


@pytest.fixture(params=["private", "shared"])
def live(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Live]:
    """A running guest, whose RAM is QEMU's own or a memfd."""
    with live_guest(tmp_path, shared=request.param == "shared") as guest:
        assert guest.is_running()
        yield guest


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Live]:
    """A running guest."""
    with live_guest(tmp_path) as running:
        assert running.is_running()
        yield running


def assert_same(ours: Path, qemus: Path) -> None:
    """The same pages and the same notes, by our readers but not by our comparison."""
    with api.open(str(ours)) as a, api.open(str(qemus)) as b:
        assert a.stated.memory.ranges() == b.stated.memory.ranges()
        assert a.stated.notes == b.stated.notes
        assert (a.guest.arch, a.guest.byte_order) == (b.guest.arch, b.guest.byte_order)
        for block in b.stated.memory:
            for at in range(block.paddr, block.end, 1 << 20):
                size = min(1 << 20, block.end - at)
                assert a.read(at, size) == b.read(at, size), hex(at)


def test_the_firmware_is_its_source(tmp_path: Path) -> None:
    require(shutil.which("as") and shutil.which("ld"), "as and ld", "apt install binutils")
    source, done, binary = HERE / "lab" / "sweep.S", tmp_path / "sweep.o", tmp_path / "sweep.bin"
    assembled = subprocess.run(["as", "--32", "-o", done, source], capture_output=True, check=False)
    if assembled.returncode:
        pytest.skip("as is of another architecture")
    link = ["ld", "-m", "elf_i386", "-Ttext", "0xffffff00", "--oformat", "binary", "-o", binary, done]
    subprocess.run(link, check=True)
    assert binary.read_bytes() == SWEEP


@pytest.mark.parametrize("access", ["shared", "process", "stream"])
@pytest.mark.parametrize("format_", ["elf", "kdump"])
def test_a_stopped_guest_is_dumped_as_qemu_dumps_it(tmp_path: Path, pydump: Pydump, access: str, format_: str) -> None:
    with live_guest(tmp_path, shared=access == "shared") as live:
        assert live.is_running()
        live.qmp.command("stop")
        ours, qemus = tmp_path / "ours", tmp_path / "qemus"
        compat = ["--compat", "qemu"] if format_ == "elf" else []
        pydump("dump", "--format", format_, *compat, "--qemu-access", access, live.source, ours)
        assert not live.qmp.command("query-status")["running"]
        live.qmp.command("dump-guest-memory", paging=False, protocol=f"file:{qemus}")
    assert_same(ours, qemus)
    pydump("compare", ours, qemus)
    if format_ == "elf":
        assert ours.read_bytes() == qemus.read_bytes()
    else:
        pydump("verify", ours)


@pytest.mark.parametrize("arch", ["aarch64", "s390x", "ppc64", "riscv64", "i386"])
def test_other_architectures(tmp_path: Path, pydump: Pydump, arch: str) -> None:
    with live_guest(tmp_path, arch, memory=256 if arch == "ppc64" else 64) as live:
        ours, qemus = tmp_path / "ours", tmp_path / "qemus"
        pydump("dump", "--format", "elf", "--compat", "qemu", live.source, ours)
        live.qmp.command("dump-guest-memory", paging=False, protocol=f"file:{qemus}")
        pydump("dump", live.source, tmp_path / "kdump")
        assert not live.qmp.command("query-status")["running"]
    assert_same(ours, qemus)
    pydump("compare", tmp_path / "kdump", qemus)


@pytest.mark.parametrize("pause", ["copy", "full", "snapshot"])
def test_memory_and_registers_are_of_one_moment(live: Live, tmp_path: Path, pause: str) -> None:
    for number in range(5):
        vmcore = str(tmp_path / f"{pause}{number}")
        report = api.dump(live.source, vmcore, options={"qmp": {"pause": pause}})
        assert report.consistent
        assert 0 < report.paused_seconds < report.seconds
        with api.open(vmcore) as dump:
            values = swept(dump.read)
            counter = dump.cpus[0].registers["eax"]
        assert in_step(values)
        # It counts up before it writes, and a sweep that has ended shows in every page.
        assert counter - values[0] in (0, 1)
        assert live.is_running()
        assert not live.leftovers()


def test_a_running_guest_is_fuzzy_and_said_to_be(live: Live, tmp_path: Path) -> None:
    torn = 0
    for number in range(5):
        vmcore = str(tmp_path / str(number))
        report = api.dump(live.source, vmcore, options={"qmp": {"pause": "none"}})
        assert not report.consistent
        assert report.paused_seconds < 0.5
        with api.open(vmcore) as dump:
            torn += not in_step(swept(dump.read))
    assert torn  # or the tests of consistency would prove nothing
    assert live.is_running()


def test_the_stream_of_a_running_guest(guest: Live, tmp_path: Path, pydump: Pydump) -> None:
    pydump("dump", "--qemu-access", "stream", guest.source, tmp_path / "vmcore")
    with api.open(str(tmp_path / "vmcore")) as dump:
        assert in_step(swept(dump.read))
    assert guest.is_running()


@pytest.mark.parametrize("pause", ["copy", "snapshot"])
def test_a_copy_on_disk(guest: Live, tmp_path: Path, pydump: Pydump, pause: str) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    pydump("dump", "--pause", pause, "--scratch", scratch, guest.source, tmp_path / "vmcore")
    with api.open(str(tmp_path / "vmcore")) as dump:
        assert in_step(swept(dump.read))
    assert not list(scratch.iterdir())
    assert guest.is_running()


def test_a_window(guest: Live, tmp_path: Path, pydump: Pydump) -> None:
    guest.qmp.command("stop")
    window = ["--begin", "0x100800", "--length", "0x200000"]
    for access in ("process", "stream"):
        pydump("dump", "--format", "elf", *window, "--qemu-access", access, guest.source, tmp_path / access)
    with api.open(str(tmp_path / "process")) as a, api.open(str(tmp_path / "stream")) as b:
        assert [(block.paddr, block.end) for block in a.stated.memory] == [(0x100800, 0x300800)]
        assert a.read(0x100800, 0x200000) == b.read(0x100800, 0x200000)


def test_reading_a_running_guest(guest: Live, pydump: Pydump) -> None:
    with api.open(guest.source) as dump:
        first = dump.read(0x100000, 4)
        assert wait_for(lambda: dump.read(0x100000, 4) != first)
        assert dump.cpus[0].registers["eax"]
    assert f"process {guest.process.pid}, guest running" in pydump("info", guest.source).stdout


def test_a_paused_guest_stays_paused(live: Live, tmp_path: Path, pydump: Pydump) -> None:
    live.qmp.command("stop")
    counter = live.counter()
    for pause in ("copy", "full", "none", "snapshot"):
        done = pydump("dump", "--json", "--pause", pause, live.source, tmp_path / pause)
        report = json.loads(done.stdout)
        assert report["consistent"]
        assert report["paused_seconds"] == 0
        assert live.qmp.command("query-status")["status"] == "paused"
    assert live.counter() == counter
    assert not live.leftovers()


def test_somebody_lets_a_paused_guest_run_meanwhile(guest: Live, tmp_path: Path) -> None:
    guest.qmp.command("stop")
    resumed = False

    def resume(progress: Any) -> None:
        nonlocal resumed
        if not resumed:
            resumed = True
            guest.qmp.command("cont")

    report = api.dump(guest.source, str(tmp_path / "vmcore"), workers=1, progress=resume)
    assert not report.consistent


def test_tcp(tmp_path: Path, pydump: Pydump) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with live_guest(tmp_path, arguments=("-qmp", f"tcp:127.0.0.1:{port},server=on,wait=off")) as live:
        assert live.is_running()
        pydump("dump", f"qmp:127.0.0.1:{port}", tmp_path / "vmcore")
        with api.open(str(tmp_path / "vmcore")) as dump:
            assert in_step(swept(dump.read))
        assert live.is_running()


def test_two_at_once(guest: Live, tmp_path: Path, pydump: Pydump) -> None:
    second = ("-v", "dump", f"qmp:{tmp_path}/qmp.sock", tmp_path / "no", "--connect-timeout", "1")
    said = pydump(*second, expect=1).stderr
    assert "another client has this monitor" in said
    assert not (tmp_path / "no").exists()


def test_two_monitors_at_once(tmp_path: Path, pydump: Pydump) -> None:
    other = tmp_path / "other.sock"
    with live_guest(tmp_path, arguments=("-qmp", f"unix:{other},server=on,wait=off")) as live:
        with api.open(live.source):
            said = pydump("dump", f"qmp:{other}", tmp_path / "no", expect=1).stderr
        assert "another pydump" in said
        assert live.is_running()


def test_a_guest_that_qemu_dumps(guest: Live, tmp_path: Path, pydump: Pydump) -> None:
    fifo = tmp_path / "fifo"
    subprocess.run(["mkfifo", fifo], check=True)
    opened: list[Any] = []
    reader = threading.Thread(target=lambda: opened.append(fifo.open("rb")))
    reader.start()
    guest.qmp.command("dump-guest-memory", paging=False, protocol=f"file:{fifo}", detach=True)
    reader.join(10)
    try:
        said = pydump("dump", guest.source, tmp_path / "no", expect=1).stderr
        assert "dumps this guest already" in said
    finally:
        opened[0].close()
    assert wait_for(guest.is_running)


def test_an_incoming_migration(tmp_path: Path, pydump: Pydump) -> None:
    with live_guest(tmp_path, arguments=("-incoming", "defer")) as live:
        said = pydump("dump", live.source, tmp_path / "no", expect=1).stderr
    assert "incoming migration" in said


def test_the_human_monitor(tmp_path: Path, pydump: Pydump) -> None:
    human = tmp_path / "human.sock"
    with live_guest(tmp_path, arguments=("-monitor", f"unix:{human},server=on,wait=off")):
        assert wait_for(human.exists)
        said = pydump("dump", f"qmp:{human}", tmp_path / "no", expect=1).stderr
    assert "does not speak QMP" in said
    assert said.count("\n") == 1


def test_not_shared(guest: Live, tmp_path: Path, pydump: Pydump) -> None:
    said = pydump("dump", "--qemu-access", "shared", guest.source, tmp_path / "no", expect=1).stderr
    assert "not shared" in said
    assert "share=on" in said
    assert guest.is_running()


def test_what_does_not_go_together(guest: Live, tmp_path: Path, pydump: Pydump) -> None:
    output = tmp_path / "no"
    pydump("dump", "--pause", "none", "--qemu-access", "stream", guest.source, output, expect=2)
    pydump("dump", "--pause", "snapshot", "--qemu-access", "process", guest.source, output, expect=2)
    pydump("dump", "--pause", "copy", "--scratch", tmp_path / "missing", guest.source, output, expect=1)
    assert not output.exists()
    assert guest.is_running()


@pytest.mark.parametrize("pause", ["full", "copy", "snapshot"])
def test_a_full_disk(guest: Live, pydump: Pydump, pause: str) -> None:
    pydump("dump", "--no-sync", "--pause", pause, "--flatten", guest.source, "/dev/full", expect=1)
    assert guest.is_running()
    assert not guest.leftovers()


def test_qemu_dies(tmp_path: Path) -> None:
    with live_guest(tmp_path, memory=512) as live:
        output = tmp_path / "vmcore"
        command = [
            sys.executable,
            "-m",
            "pydump",
            "dump",
            "--pause",
            "full",
            "--workers",
            "1",
            live.source,
            str(output),
        ]
        with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as dump:
            assert wait_for(lambda: not live.qmp.command("query-status")["running"])
            live.process.kill()
            _, said = dump.communicate(timeout=60)
    assert dump.returncode == 1
    assert said.count("\n") == 1
    assert not output.exists()


def test_the_reasons_are_said(guest: Live, tmp_path: Path, pydump: Pydump) -> None:
    said = pydump("-v", "dump", guest.source, tmp_path / "vmcore").stderr
    assert "not by way of shared" in said
    assert "by way of process" in said


def test_detached_when_the_guest_runs_again(tmp_path: Path, pydump: Pydump, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    contents = tmp_path / "contents"
    contents.write_bytes(random.Random(1).randbytes(48 << 20))
    load = ("-device", f"loader,file={contents},addr=0x4000000,force-raw=on")
    slow = ("--compression", "zstd", "--zstd-level", "15")
    with live_guest(tmp_path, memory=128, arguments=load) as live:
        assert live.is_running()
        pydump("dump", live.source, tmp_path / "vmcore", *slow, "--detach")
        assert live.is_running()
        told = json.loads(pydump("status", "1", "--json").stdout)
        assert (told["status"], told["total"] >> 20) == ("active", 128)
        assert wait_for(lambda: json.loads(pydump("status", "1", "--json").stdout)["status"] == "completed", 120)
    with api.open(tmp_path / "vmcore") as dump:
        assert in_step(swept(dump.read))
        assert dump.read(0x4000000, 48 << 20) == contents.read_bytes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_ended_before_it_is_detached(guest: Live, tmp_path: Path, number: int) -> None:
    """Who starts it is ended while the guest stands still: the process that dumps ends as well."""
    state = tmp_path / "state"
    slow = ["--pause", "full", "--workers", "1", "--compression", "zstd", "--zstd-level", "19", "--detach"]
    command = [sys.executable, "-m", "pydump", "dump", guest.source, str(tmp_path / "vmcore"), *slow]
    environment = {**os.environ, "XDG_STATE_HOME": str(state)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as dump:
        assert wait_for(lambda: not guest.qmp.command("query-status")["running"])
        dump.send_signal(number)
    assert dump.returncode
    assert wait_for(guest.is_running)
    assert wait_for(lambda: not [path for path in state.rglob("*") if path.is_file()])
    assert not (tmp_path / "vmcore").exists()
