"""Captures of guests that run under QEMU."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from judges import program, require
from lab.boot import running
from lab.live import (
    SLOW,
    SWEEP,
    Live,
    free_port,
    heavy_guest,
    in_step,
    live_guest,
    require_snapshots,
    swept,
    wait_for,
    watchdog_of,
)

import pydump as api
from pydump.model.memory import Ranges

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


@pytest.fixture
def heavy(tmp_path: Path) -> Iterator[Live]:
    """A running guest whose memory takes seconds to compress."""
    with heavy_guest(tmp_path) as running:
        yield running


@contextlib.contextmanager
def at_work(live: Live, output: Path, *how: str | Path, started_by: tuple[str, ...] = ()) -> Iterator[Any]:
    """pydump at work on a guest; it has ended when the block has."""
    command = [*started_by, sys.executable, "-m", "pydump", "dump", *map(str, how), *SLOW, live.source, str(output)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as dump:
        try:
            yield dump
        finally:
            dump.kill()


@contextlib.contextmanager
def held(live: Live, output: Path, *how: str | Path, started_by: tuple[str, ...] = ()) -> Iterator[Any]:
    """pydump at work on a guest that it has stopped; it has ended when the block has."""
    with at_work(live, output, *(how or ("--pause", "full")), started_by=started_by) as dump:
        assert wait_for(live.stands, 30)
        yield dump


def ended(dump: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit code, and what was said."""
    said = dump.communicate(timeout=120)[1]
    return dump.returncode, said


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
    with live_guest(tmp_path, arch, memory=256 if arch == "ppc64" else 64, arguments=("-S",)) as live:
        ours, qemus = tmp_path / "ours", tmp_path / "qemus"
        pydump("dump", "--format", "elf", "--compat", "qemu", live.source, ours)
        live.qmp.command("dump-guest-memory", paging=False, protocol=f"file:{qemus}")
        pydump("dump", live.source, tmp_path / "kdump")
        assert not live.qmp.command("query-status")["running"]
    assert_same(ours, qemus)
    pydump("compare", tmp_path / "kdump", qemus)


def test_a_machine_that_qemu_does_not_dump_gives_its_memory(tmp_path: Path, pydump: Pydump) -> None:
    """QEMU has no dumps of m68k machines; pydump reads their memory, and says that registers are left out."""
    qemu = program("qemu-system-m68k", "qemu-system-misc")
    sock, contents = tmp_path / "pydump.sock", b"\x60\xfe" + random.Random(1).randbytes(1 << 20)  # bra .
    (tmp_path / "contents").write_bytes(contents)
    command = [
        qemu, "-machine", "virt", "-m", "16M", "-nodefaults", "-display", "none",
        "-qmp", f"unix:{sock},server=on,wait=off", "-device", f"loader,file={tmp_path}/contents,addr=0,force-raw=on",
    ]  # fmt: skip
    with running(command, tmp_path) as (qmp, _):
        done = pydump("dump", "--format", "lime", f"qmp:{sock}", tmp_path / "dump")
        assert qmp.command("query-status")["running"]
        said = "QEMU does not dump this guest: this feature or command is not currently supported"
        assert f"the registers are left out: {said}" in done.stderr
        assert f"the registers are not shown: {said}" in pydump("info", f"qmp:{sock}").stderr
        done = pydump("dump", "--format", "lime", "--pause", "snapshot", f"qmp:{sock}", tmp_path / "other", expect=2)
        assert "has not been tested with guests of this target" in done.stderr
        assert qmp.command("query-status")["running"]
    with api.open(str(tmp_path / "dump")) as dump:
        assert dump.stated.memory.ranges() == Ranges.of([(0, 16 << 20)])
        assert dump.read(0, len(contents)) == contents


@pytest.mark.parametrize("pause", ["copy", "full", "snapshot"])
def test_memory_and_registers_are_of_one_moment(live: Live, tmp_path: Path, pause: str) -> None:
    if pause == "snapshot":
        require_snapshots()
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
    if pause == "snapshot":
        require_snapshots()
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


def test_tcp(tmp_path: Path, pydump: Pydump, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    with live_guest(tmp_path, arguments=("-qmp", f"tcp:127.0.0.1:{port},server=on,wait=off")) as live:
        assert live.is_running()
        pydump("dump", f"qmp:127.0.0.1:{port}", tmp_path / "vmcore")
        with api.open(str(tmp_path / "vmcore")) as dump:
            assert in_step(swept(dump.read))
        assert live.is_running()
        temporary = tmp_path / "temporary"
        temporary.mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(temporary))
        left: list[Path] = []

        def look(progress: Any) -> None:  # what a SIGKILL now would leave
            left.extend(temporary.iterdir())

        api.dump(f"qmp:127.0.0.1:{port}", str(tmp_path / "other"), progress=look)
    assert not left


def test_two_at_once_by_tcp(tmp_path: Path, pydump: Pydump) -> None:
    port = free_port()
    with live_guest(tmp_path, arguments=("-qmp", f"tcp:127.0.0.1:{port},server=on,wait=off")) as live:
        with api.open(f"qmp:127.0.0.1:{port}"):
            said = pydump("dump", live.source, tmp_path / "no", expect=1).stderr
        assert "another pydump" in said
        with api.open(live.source):
            said = pydump("dump", f"qmp:127.0.0.1:{port}", tmp_path / "no", expect=1).stderr
        assert "another pydump" in said
        assert live.is_running()


def test_the_mark_of_a_killed_pydump(guest: Live, tmp_path: Path, pydump: Pydump) -> None:
    """Both of its processes are gone. Of one that another system has made nobody knows whether it is at work."""

    def leave(system: str) -> None:
        identity = f"{system} 4194305:1 4194306:1"  # above any pid: proc(5), pid_max
        guest.qmp.command("object-add", qom_type="authz-simple", id="pydump", identity=identity)

    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    here = f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    leave(here)
    pydump("dump", guest.source, tmp_path / "vmcore")
    assert not guest.leftovers()
    leave(here)
    guest.qmp.command("stop")
    assert "may be paused because of that" in pydump("dump", guest.source, tmp_path / "paused").stderr
    leave("another")
    said = pydump("dump", guest.source, tmp_path / "no", expect=1).stderr
    assert "another pydump" in said and "object-del" in said
    guest.qmp.command("object-del", id="pydump")


def test_what_a_killed_snapshot_has_set_is_set_back(guest: Live, tmp_path: Path, pydump: Pydump) -> None:
    """Its mark says what the limit was; a limit that is not a snapshot's is somebody else's."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    killed = f"{boot}/{os.stat('/proc/self/ns/pid').st_ino} 4194305:1 4194306:1 max-bandwidth=12345678"
    for found, after in ((1 << 40, 12345678), (23456789, 23456789)):
        guest.qmp.command("migrate-set-parameters", max_bandwidth=found)
        guest.qmp.command("object-add", qom_type="authz-simple", id="pydump", identity=killed)
        pydump("dump", guest.source, tmp_path / "vmcore", "--force")
        assert guest.qmp.command("query-migrate-parameters")["max-bandwidth"] == after


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
        assert "QEMU is dumping this guest already" in said
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


@pytest.mark.parametrize(
    "how",
    [("--pause", "copy"), ("--pause", "full"), ("--qemu-access", "stream")],
    ids=lambda how: how[-1],
)
def test_a_pause_that_is_too_long_is_given_up(
    guest: Live, pydump: Pydump, tmp_path: Path, how: tuple[str, ...]
) -> None:
    output = tmp_path / "vmcore"
    done = pydump("dump", *how, "--timeout", "0.001", guest.source, output, expect=1)
    assert done.stderr.splitlines()[-1].startswith("pydump: error: the guest was paused for 0.001 s")
    assert not output.exists()
    assert guest.is_running()
    assert not guest.leftovers()
    pydump("dump", *how, "--timeout", "60", guest.source, output)
    assert guest.is_running()


def test_a_copy_takes_no_more_memory_than_it_may(guest: Live, pydump: Pydump, tmp_path: Path) -> None:
    output = tmp_path / "vmcore"
    done = pydump("dump", "--pause", "copy", "--memory-limit", "1", guest.source, output, expect=1)
    assert "and --memory-limit is 1" in done.stderr
    done = pydump("dump", "--memory-limit", "1", guest.source, output)
    assert "the guest stays paused for the whole dump" in done.stderr
    assert guest.is_running()


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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_watchdog_that_is_killed(heavy: Live, tmp_path: Path, number: int) -> None:
    """The process does the watchdog's work, or starts another one; its dump is as good."""
    with held(heavy, tmp_path / "vmcore") as dump:
        watchdog = watchdog_of(dump.pid)
        assert watchdog
        os.kill(watchdog, number)
        if number == signal.SIGKILL:
            assert ended(dump) == (0, "")
    assert wait_for(heavy.is_running)
    assert not heavy.leftovers()
    if number == signal.SIGKILL:
        with api.open(tmp_path / "vmcore") as vmcore:
            assert in_step(swept(vmcore.read))
        with held(heavy, tmp_path / "no") as dump:
            watchdog = watchdog_of(dump.pid)
            assert watchdog
            os.kill(watchdog, signal.SIGKILL)
            dump.terminate()
            assert ended(dump)[0] == 130
        assert wait_for(heavy.is_running)
        assert not heavy.leftovers()


def test_a_watchdog_that_is_killed_in_a_snapshot(heavy: Live, tmp_path: Path) -> None:
    require_snapshots()
    for moment in (0, 0.05, 0.1):
        with at_work(heavy, tmp_path / "no", "--pause", "snapshot") as dump:
            pid = dump.pid
            assert wait_for(lambda: watchdog_of(pid) is not None, 30)  # noqa: B023  (it is called at once)
            watchdog = watchdog_of(pid)
            time.sleep(moment)
            if watchdog:
                with contextlib.suppress(ProcessLookupError):  # it was through before
                    os.kill(watchdog, signal.SIGKILL)
            dump.terminate()
            ended(dump)
        assert wait_for(heavy.is_running)
        assert wait_for(lambda: not heavy.leftovers())


def test_standard_streams_are_closed(heavy: Live, tmp_path: Path) -> None:
    shell = ("sh", "-c", 'exec "$@" <&- >&-', "sh")
    with held(heavy, tmp_path / "no", started_by=shell) as dump:
        dump.kill()
    assert wait_for(heavy.is_running)
    assert wait_for(lambda: not heavy.leftovers())


def test_it_cannot_be_suspended_while_the_guest_waits(heavy: Live, tmp_path: Path) -> None:
    with held(heavy, tmp_path / "vmcore") as dump:
        for number in (signal.SIGTSTP, signal.SIGTTOU, signal.SIGTTIN):
            dump.send_signal(number)
        assert ended(dump) == (0, "")
    assert heavy.is_running()


def read_late(live: Live, fifo: Path) -> Any:
    """A dump by somebody else, which goes on until its reader is closed."""
    os.mkfifo(fifo)
    opened: list[Any] = []
    reader = threading.Thread(target=lambda: opened.append(fifo.open("rb")))
    reader.start()
    live.qmp.command("dump-guest-memory", paging=False, protocol=f"file:{fifo}", detach=True)
    reader.join(10)
    return opened[0]


def killed_or_done(dump: subprocess.Popen[str], *, killed: bool) -> str:
    """Kill it, or let it come to a good end, and give what it said then."""
    if killed:
        dump.kill()
        dump.wait(60)
        return ""
    code, said = ended(dump)
    assert code == 0
    return said


@pytest.mark.parametrize("killed", [False, True])
def test_somebody_dumps_it_meanwhile(heavy: Live, tmp_path: Path, killed: bool) -> None:
    """QEMU does not let a guest run while it dumps: that is waited for, and the finished dump is kept."""
    with held(heavy, tmp_path / "vmcore", "--pause", "full", "--progress", "plain") as dump:
        assert dump.stderr.readline().startswith("pydump: dump")  # the registers have been taken
        reader = read_late(heavy, tmp_path / "fifo")
        said = killed_or_done(dump, killed=killed)
        assert killed or ("warning: the guest does not run yet" in said and "dump in process" in said)
    assert heavy.stands()
    assert heavy.qmp.command("query-dump")["status"] == "active"
    reader.close()
    assert wait_for(heavy.is_running)
    assert wait_for(lambda: not heavy.leftovers())
    if not killed:
        with api.open(tmp_path / "vmcore") as vmcore:
            assert in_step(swept(vmcore.read))


@pytest.mark.parametrize("killed", [False, True])
def test_somebody_migrates_it_meanwhile(heavy: Live, tmp_path: Path, killed: bool) -> None:
    """It runs at its destination: here it must never run again."""
    with held(heavy, tmp_path / "vmcore", "--pause", "full", "--progress", "plain") as dump:
        assert dump.stderr.readline().startswith("pydump: dump")  # the registers have been taken
        heavy.qmp.command("migrate", uri="exec:cat >/dev/null")
        assert wait_for(lambda: heavy.qmp.command("query-migrate")["status"] == "completed", 30)
        watchdog = watchdog_of(dump.pid)
        said = killed_or_done(dump, killed=killed)
        assert killed or ("warning: the guest has been migrated while it was held" in said)
    assert wait_for(lambda: not Path(f"/proc/{watchdog}").exists(), 30)
    assert heavy.qmp.command("query-status")["status"] == "postmigrate"


def test_others_have_the_monitor_once_the_guest_is_captured(guest: Live, tmp_path: Path) -> None:
    greetings = []

    def connect(progress: Any) -> None:
        if progress.phase == "dump" and not greetings:
            with socket.socket(socket.AF_UNIX) as other:
                other.settimeout(10)
                other.connect(str(guest.socket))
                greetings.append(other.recv(7))

    report = api.dump(guest.source, str(tmp_path / "vmcore"), workers=1, progress=connect)
    assert greetings == [b'{"QMP":']
    assert 0 < report.paused_seconds < report.seconds


def test_no_room_for_a_copy(guest: Live, tmp_path: Path, pydump: Pydump, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = tmp_path / "missing"
    said = pydump("dump", "--scratch", missing, guest.source, tmp_path / "no", expect=1).stderr
    assert str(missing) in said
    monkeypatch.setattr("pydump_source_qemu.this_host.room_for", lambda size, where: "none at all")
    report = api.dump(guest.source, str(tmp_path / "vmcore"))
    assert "paused for the whole dump: none at all" in report.warnings[-1]


def test_a_snapshot_of_memory_in_a_file(tmp_path: Path, pydump: Pydump) -> None:
    require_snapshots()
    backend = f"memory-backend-file,id=ram,size=64M,mem-path={tmp_path}/ram"
    with live_guest(tmp_path, arguments=("-object", backend, "-machine", "memory-backend=ram")) as live:
        said = pydump("dump", "--pause", "snapshot", live.source, tmp_path / "no", expect=1).stderr
        assert "lies in no file" in said and "userfaultfd" not in said
        assert live.is_running()
        assert not live.leftovers()


def test_before_there_is_a_guest(tmp_path: Path, pydump: Pydump) -> None:
    with live_guest(tmp_path, arguments=("--preconfig",)) as live:
        said = pydump("dump", live.source, tmp_path / "no", expect=1).stderr
    assert "--preconfig" in said and "x-exit-preconfig" in said


def test_no_permission(guest: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pydump_qemu_stream.process import Process

    opened = Process.open

    def refused(process: Process, name: str) -> int:
        if name == "mem":
            raise process._denied("mem", PermissionError(errno.EPERM, "Operation not permitted"))
        return opened(process, name)

    monkeypatch.setattr(Process, "open", refused)
    output = str(tmp_path / "no")
    with pytest.raises(api.errors.SourceError, match="ptrace_scope=0$"):  # the stream would stop it
        api.dump(guest.source, output, options={"qmp": {"pause": "none"}})
    with pytest.raises(api.errors.SourceError, match="take --qemu-access stream$"):
        api.dump(guest.source, output, options={"qmp": {"access": "process"}})
    assert guest.is_running()


def test_the_reasons_are_said(guest: Live, tmp_path: Path, pydump: Pydump) -> None:
    said = pydump("-v", "dump", guest.source, tmp_path / "vmcore").stderr
    assert "not by way of shared" in said
    assert "by way of process" in said
    require_snapshots()
    assert "a snapshot by QEMU" in pydump("-v", "dump", "--pause", "snapshot", guest.source, tmp_path / "other").stderr


def test_detached_when_the_guest_runs_again(tmp_path: Path, pydump: Pydump, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    slow = ("--compression", "zstd", "--zstd-level", "15")
    with heavy_guest(tmp_path) as live:
        pydump("dump", live.source, tmp_path / "vmcore", *slow, "--detach")
        assert live.is_running()
        told = json.loads(pydump("status", "1", "--json").stdout)
        assert (told["status"], told["total"] >> 20) == ("active", 128)
        assert wait_for(lambda: json.loads(pydump("status", "1", "--json").stdout)["status"] == "completed", 120)
    with api.open(tmp_path / "vmcore") as dump:
        assert in_step(swept(dump.read))
        assert dump.read(0x4000000, 48 << 20) == (tmp_path / "contents").read_bytes()


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
