"""A capture leaves a guest as it was: under several QEMUs, on each architecture, in each run state."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lab.live import COUNTERS, IDLE, SUITES, Live, in_step, live_guest, qemu_of, require_snapshots, swept, wait_for

import pydump as api
from pydump_source_qemu.watchdog import Resumed

#: The register that a guest's program counts in.
REGISTERS = {
    "aarch64": "x0",
    "arm": "r0",
    "riscv64": "a0",
    "ppc64": "r3",
    "s390x": "r2",
    "x86_64": "eax",
    "i386": "eax",
}
#: The ways to capture a guest.
WAYS = {
    "full": {"pause": "full"},
    "copy": {"pause": "copy"},
    "none": {"pause": "none"},
    "snapshot": {"pause": "snapshot"},
    "stream": {"access": "stream"},
}


def capture(live: Live, output: Path, way: str) -> api.DumpReport:
    """A capture, by few processes: there is little memory."""
    return api.dump(live.source, output, force=True, sync=False, workers=1, options={"qmp": WAYS[way]})


@pytest.fixture(params=SUITES)
def qemu(request: pytest.FixtureRequest, lab: Path) -> tuple[str, ...]:
    """What stands before a program of QEMU's."""
    require_snapshots()
    return qemu_of(request.param, lab)


@pytest.mark.parametrize("arch", COUNTERS)
def test_a_guest_is_captured_in_every_way_and_left_as_it_was(tmp_path: Path, qemu: tuple[str, ...], arch: str) -> None:
    ours, qemus = tmp_path / "ours", tmp_path / "qemus"
    with live_guest(tmp_path, arch, memory=256 if arch == "ppc64" else 64, qemu=qemu) as live:
        assert live.is_running()
        for way in WAYS:
            report = capture(live, ours, way)
            assert report.consistent == (way != "none")
            assert not report.warnings
            assert live.is_running(), way
            assert not live.leftovers(), way
            if report.consistent:
                assert_of_one_moment(ours, arch)
        live.qmp.command("stop")
        live.qmp.command("dump-guest-memory", paging=False, protocol=f"file:{qemus}")
        for way in WAYS:
            report = capture(live, ours, way)
            assert report.consistent and report.paused_seconds == 0
            assert live.state == "paused", way
            assert_same(ours, qemus)


def assert_of_one_moment(vmcore: Path, arch: str) -> None:
    """Check that a CPU has counted to what memory says, or one further: it counts before it writes."""
    with api.open(vmcore) as dump:
        if arch in ("x86_64", "i386"):
            assert in_step(swept(dump.read))
            counter = swept(dump.read)[0]
        else:
            counter = int.from_bytes(dump.read(COUNTERS[arch], 8), dump.guest.byte_order or "little")
        counted = [cpu.registers[REGISTERS[arch]] for cpu in dump.cpus]
    assert counter > 0 and {counter, counter + 1} & set(counted)


def assert_same(ours: Path, qemus: Path) -> None:
    """Check that it is the same memory, and that the CPUs have the same registers."""
    assert api.compare(ours, qemus, workers=1).same
    with api.open(ours) as a, api.open(qemus) as b:
        assert a.guest.memory.ranges() == b.guest.memory.ranges()
        assert a.cpus == b.cpus


def outw(live: Live, port: int, value: int, size: str = "w") -> None:
    """Write to an I/O port, as the guest would."""
    live.qmp.monitor(f"o/{size} {port:#x} {value:#x}")


def power(live: Live, value: int) -> None:
    """Write to PM1_CNT of the guest's power management, which firmware would have put at port 0x600.

    Source: hw/isa/lpc_ich9.c, hw/acpi/core.c of QEMU.
    """
    for register, content in ((0x40, 0x601), (0x44, 0x80)):
        outw(live, 0xCF8, 0x8000F800 | register)
        outw(live, 0xCFC, content)
    outw(live, 0x604, value, "h")


#: A disk that cannot be read, and stops the guest that tries.
BAD_DISK = (
    *("-blockdev", "null-co,node-name=nothing,size=1048576"),
    *("-blockdev", "blkdebug,node-name=bad,image=nothing,inject-error.0.event=none,inject-error.0.iotype=read"),
    *("-device", "isa-ide,id=old", "-device", "ide-hd,bus=old.0,drive=bad,rerror=stop"),
)


def read_disk(live: Live) -> None:
    """Have the disk read its first sector. Source: ATA/ATAPI-4, READ SECTORS, on the primary channel's ports."""
    for port, value in ((0x1F6, 0xE0), (0x1F2, 1), (0x1F3, 0), (0x1F4, 0), (0x1F5, 0), (0x1F7, 0x20)):
        outw(live, port, value, "b")


def suspend(live: Live) -> None:
    """S3: to memory."""
    power(live, 0x2400)


#: The run states in which a guest does not run, and how it gets there.
STATES: dict[str, tuple[tuple[str, ...], Callable[[Live], object]]] = {
    "prelaunch": (("-S",), lambda live: None),
    "paused": ((), lambda live: live.qmp.command("stop")),
    "suspended": ((), suspend),
    "shutdown": (("-no-shutdown",), lambda live: power(live, 0x2000)),
    "guest-panicked": (("-device", "pvpanic", "-action", "panic=pause"), lambda live: outw(live, 0x505, 1, "b")),
    "io-error": (BAD_DISK, read_disk),
}


@pytest.mark.parametrize("state", STATES)
def test_a_guest_that_does_not_run_stays_so(tmp_path: Path, qemu: tuple[str, ...], state: str) -> None:
    arguments, reach = STATES[state]
    qemus = tmp_path / "qemus"
    with live_guest(tmp_path, arguments=arguments, qemu=qemu) as live:
        reach(live)
        assert wait_for(lambda: live.state == state)
        live.qmp.command("dump-guest-memory", paging=False, protocol=f"file:{qemus}")
        for way in WAYS:
            report = capture(live, tmp_path / "ours", way)
            assert report.consistent and not report.warnings and report.paused_seconds == 0
            assert live.state == state, way
            assert not live.leftovers(), way
            assert_same(tmp_path / "ours", qemus)


@pytest.mark.parametrize("arch", COUNTERS)
def test_a_snapshot_of_a_running_guest_has_the_notes_of_qemus_dump(
    tmp_path: Path, qemu: tuple[str, ...], arch: str
) -> None:
    ours, qemus = tmp_path / "ours", tmp_path / "qemus"
    with live_guest(tmp_path, arch, memory=256 if arch == "ppc64" else 64, qemu=qemu, program=IDLE[arch]) as live:
        assert wait_for(lambda: "123" in live.qmp.monitor("info registers"))
        report = capture(live, ours, "snapshot")
        assert report.consistent and not report.warnings
        assert live.state == "running" and not live.leftovers()
        live.qmp.command("stop")
        live.qmp.command("dump-guest-memory", paging=False, protocol=f"file:{qemus}")
    with api.open(ours) as a, api.open(qemus) as b:
        assert a.guest.memory.ranges() == b.guest.memory.ranges()
        changing = {"timer"}  # of s390x: it counts while the CPU runs
        for mine, theirs in zip(a.cpus, b.cpus, strict=True):
            assert {**mine.registers, **dict.fromkeys(changing, 0)} == {
                **theirs.registers,
                **dict.fromkeys(changing, 0),
            }
        if arch != "s390x":
            assert a.guest.notes == b.guest.notes
    assert api.compare(ours, qemus, workers=1).same


def test_a_guest_runs_on_while_its_snapshot_is_sent(tmp_path: Path, qemu: tuple[str, ...]) -> None:
    states = []

    def look(progress: api.Progress) -> None:
        if progress.phase == "capture" and progress.done and not states:
            wait_for(lambda: live.state == "running", 5)
            states.append(live.state)

    with live_guest(tmp_path, qemu=qemu) as live:
        assert live.is_running()
        api.dump(live.source, tmp_path / "vmcore", workers=1, options={"qmp": WAYS["snapshot"]}, progress=look)
        assert states == ["running"]
        assert live.is_running()


def test_a_guest_that_wakes_meanwhile_is_not_consistent(tmp_path: Path, qemu: tuple[str, ...]) -> None:
    with live_guest(tmp_path, qemu=qemu) as live:
        for way in ("full", "copy", "stream"):
            assert live.is_running()
            suspend(live)
            assert wait_for(lambda: live.state == "suspended")
            woken = False

            def wake(progress: api.Progress) -> None:
                nonlocal woken
                if not woken:
                    woken = True
                    live.qmp.command("system_wakeup")

            report = api.dump(
                live.source, tmp_path / way, workers=1, sync=False, options={"qmp": WAYS[way]}, progress=wake
            )
            assert woken and not report.consistent, way


def test_unplugged_memory_is_not_missed(tmp_path: Path, qemu: tuple[str, ...]) -> None:
    """QEMU sends no page of it, and QEMU 8 and later announce it before RAM."""
    device = ("-m", "64M,slots=1,maxmem=1G", "-object", "memory-backend-ram,id=more,size=256M",
              "-device", "virtio-mem-pci,memdev=more,requested-size=64M")  # fmt: skip
    with live_guest(tmp_path, arguments=device, qemu=qemu) as live:
        for way in WAYS:
            report = capture(live, tmp_path / "ours", way)
            assert report.ram_size < 128 << 20
            assert live.is_running(), way
        live.qmp.command("stop")
        live.qmp.command("dump-guest-memory", paging=False, protocol=f"file:{tmp_path}/qemus")
        capture(live, tmp_path / "ours", "snapshot")
        assert_same(tmp_path / "ours", tmp_path / "qemus")


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A running guest, with a second monitor that indents what it says."""
    directory = tmp_path_factory.mktemp("guest")
    with live_guest(directory, arguments=("-qmp-pretty", f"unix:{directory}/pretty,server=on,wait=off")) as live:
        assert live.is_running()
        yield live


def test_a_monitor_that_indents(guest: Live, tmp_path: Path) -> None:
    pretty = dataclasses.replace(guest, socket=guest.socket.with_name("pretty"))
    for way in WAYS:
        assert capture(pretty, tmp_path / "vmcore", way).consistent == (way != "none")
        assert guest.is_running() and not guest.leftovers()


def test_a_live_guest_is_captured_before_workers_read_it(guest: Live, tmp_path: Path) -> None:
    capture(guest, tmp_path / "vmcore", "copy")
    assert sum(cell.ram_size for cell in api.survey(guest.source, workers=2).cells) > 64 << 20
    assert guest.is_running()
    assert api.verify(guest.source, workers=2).ok
    assert guest.is_running()
    assert not api.compare(guest.source, tmp_path / "vmcore", workers=2).same  # it has counted on
    assert guest.is_running() and not guest.leftovers()


def test_a_guest_that_does_not_run_again_is_an_error(
    guest: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watchdog, which runs apart, then lets it run."""
    monkeypatch.setattr("pydump_source_qemu.session.resume", lambda ask: Resumed(False, "QEMU refuses"))
    monkeypatch.setattr("pydump_source_qemu.session.GRACE", 0)
    for way in ("full", "copy"):
        with pytest.raises(api.errors.SourceError, match="does not run now: QEMU refuses"):
            capture(guest, tmp_path / "vmcore", way)
        assert not (tmp_path / "vmcore").exists()
        assert wait_for(guest.is_running)
        assert wait_for(lambda: not guest.leftovers())


def test_a_guest_that_somebody_pauses_meanwhile_is_an_error_and_stays_so(guest: Live, tmp_path: Path) -> None:
    options = {"qmp": {"pause": "none"}}
    with pytest.raises(api.errors.SourceError, match="it is paused; somebody else has paused it"):
        api.dump(
            guest.source, tmp_path / "vmcore", workers=1, options=options, progress=lambda _: guest.qmp.command("stop")
        )
    assert guest.state == "paused"
    guest.qmp.command("cont")
    assert guest.is_running() and not guest.leftovers()


def test_a_monitor_serves_the_process_that_opened_it(guest: Live) -> None:
    import multiprocessing

    def read(dump: api.Dump, said: multiprocessing.Queue[str]) -> None:
        try:
            dump.read(0, 4096)
        except api.errors.SourceError as error:
            said.put(str(error))

    fork = multiprocessing.get_context("fork")
    said = fork.Queue()
    with api.open(guest.source) as dump:
        child = fork.Process(target=read, args=(dump, said))
        child.start()
        assert "belongs to another process" in said.get(timeout=10)
        child.join(10)
        dump.read(0, 4096)
    assert guest.is_running()
