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
from lab.live import Live, live_guest, wait_for

import pydump as api

#: How often it is killed in each way of capture, with each signal.
ROUNDS = 5
#: Whose memory it is, and how it is captured.
WAYS = {
    "full": ("private", "--pause", "full", "--workers", "1"),
    "copy": ("private", "--pause", "copy"),
    "copy on disk": ("private", "--pause", "copy", "--scratch", "."),
    "snapshot": ("private", "--pause", "snapshot"),
    "none": ("private", "--pause", "none"),
    "stream": ("private", "--qemu-access", "stream"),
    "shared": ("shared", "--qemu-access", "shared", "--pause", "full"),
}
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


@pytest.fixture(scope="module")
def live(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A running guest with something in its memory."""
    directory = tmp_path_factory.mktemp(request.param)
    contents = directory / "contents"
    contents.write_bytes(random.Random(1).randbytes(48 << 20))
    load = ("-device", f"loader,file={contents},addr=0x4000000,force-raw=on")
    with live_guest(directory, memory=128, shared=request.param == "shared", arguments=load) as guest:
        assert guest.is_running()
        yield guest


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


@pytest.mark.parametrize(("live", "way"), [(kind, way) for way, (kind, *_) in WAYS.items()], indirect=["live"])
def test_a_killed_capture(live: Live, tmp_path: Path, way: str) -> None:
    output = tmp_path / "vmcore"
    command = [sys.executable, "-m", "pydump", "dump", "--no-sync", *WAYS[way][1:], live.source, str(output)]

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            cwd=tmp_path,
            env={**os.environ, MARK: str(tmp_path)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    before = time.monotonic()
    assert start().wait(60) == 0
    duration = time.monotonic() - before
    output.unlink()
    dice = random.Random(way)
    killed = 0
    for number, sent in enumerate(SIGNALS * ROUNDS):
        dump = start()
        try:
            if number % 2:
                time.sleep(dice.uniform(0.15, 1) * duration)
            else:  # while it stands still, which may be short
                wait_for(lambda: not live.qmp.command("query-status")["running"], duration)
                time.sleep(dice.uniform(0, 0.01))
            os.kill(dump.pid, sent)
        finally:
            code = dump.wait(60)
        killed += code != 0
        assert wait_for(live.is_running), f"{sent!r}: it stands still"
        if code == 0 or (sent == signal.SIGKILL and output.exists()):  # killed when all was done
            assert api.verify(output).ok
            output.unlink()
        assert not list(tmp_path.iterdir()), f"{sent!r}: something is left"
        assert wait_for(lambda: not live.leftovers()), f"{sent!r}: {live.leftovers()} is changed in QEMU"
        assert wait_for(lambda: not watchdogs(tmp_path)), f"{sent!r}: a watchdog stays"
    assert killed >= ROUNDS
