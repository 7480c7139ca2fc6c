"""pydump is killed at any moment: the guest runs again, and nothing half-written is left."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.live import SUITES, Live, free_port, heavy_guest, qemu_of, require_snapshots, wait_for, watchdog_of

import pydump as api

#: Whose memory it is, and how it is captured.
WAYS = {
    "full": ("private", "--pause", "full", "--workers", "1"),
    "copy": ("private", "--pause", "copy"),
    "copy on disk": ("private", "--pause", "copy", "--scratch", "."),
    "snapshot": ("private", "--pause", "snapshot"),
    "none": ("private", "--pause", "none"),
    "stream": ("private", "--qemu-access", "stream"),
    "shared": ("shared", "--qemu-access", "shared", "--pause", "full"),
    "by TCP": ("tcp",),
    "full, newer QEMU": ("newer", "--pause", "full", "--workers", "1"),
    "snapshot, newer QEMU": ("newer", "--pause", "snapshot"),
}
#: How often it is killed in each way of capture: a hundred times in all, not counting those that came too late.
KILLS = -(-100 // len(WAYS))
#: With what, and whom: pydump, all of its process group, or pydump and the watchdog, as what stops a service does.
HITS = (
    (signal.SIGKILL, "pydump"),
    (signal.SIGTERM, "both"),
    (signal.SIGINT, "group"),
    (signal.SIGKILL, "group"),
    (signal.SIGTERM, "pydump"),
)


@pytest.fixture(scope="module")
def live(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, lab: Path
) -> Iterator[tuple[Live, str]]:
    """A running guest with something in its memory, and what pydump calls it."""
    port = free_port()
    tcp = ("-qmp", f"tcp:127.0.0.1:{port},server=on,wait=off")
    directory = tmp_path_factory.mktemp(request.param)
    qemu = qemu_of(SUITES[-1] if request.param == "newer" else "own", lab)
    with heavy_guest(directory, shared=request.param == "shared", arguments=tcp, qemu=qemu) as guest:
        yield guest, f"qmp:127.0.0.1:{port}" if request.param == "tcp" else guest.source


#: What tells the processes of one test from those of another that runs beside it.
MARK = "PYDUMP_TEST_DIRECTORY"


def watchdogs(directory: Path) -> list[str]:
    """The watchdog processes that were started by captures into ``directory``."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            ours = f"{MARK}={directory}\0".encode() in (process / "environ").read_bytes()
            if ours and b"watchdog.py" in (process / "cmdline").read_bytes():
                found.append(process.name)
        except OSError:
            continue
    return found


def hit(dump: subprocess.Popen[bytes], number: signal.Signals, whom: str) -> None:
    """Send a signal."""
    if whom == "group":
        os.killpg(dump.pid, number)
        return
    watchdog = watchdog_of(dump.pid) if whom == "both" else None
    if watchdog:
        os.kill(watchdog, number)
    dump.send_signal(number)


@pytest.mark.parametrize(("live", "way"), [(kind, way) for way, (kind, *_) in WAYS.items()], indirect=["live"])
def test_a_killed_capture(live: tuple[Live, str], tmp_path: Path, way: str) -> None:
    if "snapshot" in way:
        require_snapshots()
    guest, source = live
    output = tmp_path / "vmcore"
    command = [sys.executable, "-m", "pydump", "dump", "--no-sync", *WAYS[way][1:], source, str(output)]

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            cwd=tmp_path,
            env={**os.environ, MARK: str(tmp_path)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    before = time.monotonic()
    assert start().wait(60) == 0
    duration = time.monotonic() - before
    output.unlink()
    dice = random.Random(way)
    killed = 0
    for attempt in range(4 * KILLS):
        sent, whom = HITS[killed % len(HITS)]
        dump = start()
        try:
            if attempt % 2:
                time.sleep(dice.uniform(0.1, 0.95) * duration)
            else:  # while it stands still, which may be short
                wait_for(lambda: not guest.qmp.command("query-status")["running"], duration)
                time.sleep(dice.uniform(0, 0.01))
            hit(dump, sent, whom)
        finally:
            code = dump.wait(60)
        what = f"{sent!r} to {whom}"
        assert wait_for(guest.is_running, 30), f"{what}: it stands still"
        if output.exists() or code == 0:  # when all was done
            assert api.verify(output).ok
            output.unlink()
        else:
            killed += 1
        assert not list(tmp_path.iterdir()), f"{what}: something is left"
        assert wait_for(lambda: not guest.leftovers(), 30), f"{what}: {guest.leftovers()} is changed in QEMU"
        assert wait_for(lambda: not watchdogs(tmp_path), 30), f"{what}: a watchdog stays"
        if killed == KILLS:
            break
    assert killed == KILLS
