"""``pydump watch`` on guests that panic."""

from __future__ import annotations

import contextlib
import json
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lab.live import PANICKING, Live, live_guest, wait_for

import pydump as api
from pydump_source_qemu.source import QemuSource

#: A guest that stays where it panicked.
PANIC = ("-device", "pvpanic", "-action", "panic=pause")


@contextlib.contextmanager
def watching(source: str, directory: Path, *words: str, **settings: Any) -> Iterator[subprocess.Popen[str]]:
    """pydump at its watch; it has ended when the block has."""
    command = [sys.executable, "-m", "pydump", "watch", source, "--on", "panicked", str(directory), *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, **settings) as process:
        try:
            yield process
        finally:
            process.kill()


def told(process: subprocess.Popen[str], words: str) -> str:
    """Read what it says until it says this."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if words in line:
            return line
    raise AssertionError(f"it has not said {words!r}: {lines}")


@contextlib.contextmanager
def panicking(directory: Path, *arguments: str) -> Iterator[Live]:
    """A guest that panics each time it is let run, and has not been yet."""
    with live_guest(directory, arguments=(*PANIC, "-S", *arguments), program=PANICKING) as live:
        yield live


def panic(live: Live) -> None:
    """Let it run until it panics."""
    live.qmp.command("cont")
    assert wait_for(lambda: live.state == "guest-panicked")


@pytest.mark.parametrize("device", ["", "pvpanic", "pvpanic,id=panic", "pvpanic-pci"])
def test_a_watch_says_that_qemu_cannot_hear_of_a_panic(device: str, tmp_path: Path) -> None:
    with live_guest(tmp_path, arguments=("-S", *(("-device", device) if device else ())), program=PANICKING) as live:
        with QemuSource.watch(live.source.removeprefix("qmp:"), "panicked") as watch:
            assert [warning.partition(",")[0] for warning in watch.warnings] == (
                [] if device else ["the guest has no pvpanic device"]
            )
        assert live.state == "prelaunch"


def test_each_panic_is_captured_and_the_latest_dumps_are_kept(tmp_path: Path) -> None:
    directory = tmp_path / "dumps"
    source = f"qmp:{tmp_path}/pydump.sock"
    quick = ("--", "--no-sync", "--compression", "none", "--workers", "1")
    with watching(source, directory, "--wait", "60", "--go-on", "--keep", "1", *quick) as watch:
        with panicking(tmp_path) as live:  # it was not there when the watch began
            told(watch, "watching qmp:")
            captured = []
            for _ in range(2):
                panic(live)
                told(watch, "watching qmp:")  # again
                captured += [path.name for path in directory.iterdir() if path.name not in captured]
                assert len(list(directory.iterdir())) == 1
                assert live.state == "guest-panicked"
                assert not live.leftovers()
            assert len(captured) == 2
            # Two within a second differ by a number.
            assert all(re.fullmatch(r"panicked-2\d{7}T\d{6}Z(\.1)?\.vmcore", name) for name in captured)
            assert api.verify(directory / captured[-1], workers=1).ok
        told(watch, "the guest ended after 2 captures")
        assert watch.wait(60) == 0


def test_a_guest_that_has_panicked_is_captured_at_once_and_then_it_ends(tmp_path: Path) -> None:
    with panicking(tmp_path) as live:
        panic(live)
        with watching(live.source, tmp_path / "dumps", "--", "--no-sync", "--workers", "1") as watch:
            assert watch.wait(60) == 0
        assert len(list((tmp_path / "dumps").iterdir())) == 1
        assert live.state == "guest-panicked"

        # Nothing stays of a capture that fails: here, where files may not grow.
        def limited() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 12, 1 << 12))

        with watching(live.source, tmp_path / "full", "--", "--no-sync", preexec_fn=limited) as watch:
            told(watch, "pydump: error: ")
            assert watch.wait(60) == 1
        assert not list((tmp_path / "full").iterdir())

        # Nor of one that is interrupted, here because it is slow.
        with watching(live.source, tmp_path / "slow", "--", "--max-rate", "1K", "--pause", "full") as watch:
            told(watch, "the guest panicked")
            assert wait_for(live.leftovers, 30)  # it is at work
            watch.send_signal(signal.SIGTERM)
            assert watch.wait(60) == 130
        assert not list((tmp_path / "slow").iterdir())
        assert live.state == "guest-panicked"
        assert wait_for(lambda: not live.leftovers())


def test_a_dump_that_cannot_be_had_after_the_panic_is_written_without_what_stands_in_the_way(
    tmp_path: Path, pydump: Callable[..., Any]
) -> None:
    """The guest has no kernel, so no VMCOREINFO that says which of its pages are free, and no shared memory."""
    common = ("--no-sync", "--workers", "1", "--compression", "none")
    with panicking(tmp_path) as live:
        panic(live)
        for i, words in enumerate(
            (("-d", "31"), ("--vmcoreinfo", "memory"), ("--qemu-access", "shared", "--ram-only"))
        ):
            directory = tmp_path / f"dumps{i}"
            done = pydump("watch", live.source, directory, "--json", "--", *common, *words, expect=3)
            warning = f"the dump as asked cannot be had: it is written without {' '.join(words)}"
            assert f"pydump: warning: {warning}" in done.stderr.splitlines()
            (vmcore,) = directory.iterdir()
            report = json.loads(done.stdout)  # a single object: neither the dry run nor the refused dump
            assert (report["dry_run"], report["output"], report["compression"]) == (False, str(vmcore), "none")
            assert report["warnings"][-1] == warning
            assert api.verify(vmcore, workers=1).ok
        assert live.state == "guest-panicked"
        assert not live.leftovers()

        # The guest was paused before: pydump has not paused it for 0 ms.
        done = pydump("watch", live.source, tmp_path / "whole", "--", *common)
        assert "already, before the capture" in done.stdout
        assert not pydump("--quiet", "watch", live.source, tmp_path / "quiet", "--", *common).stdout


def test_a_guest_that_ends_before_it_panics_is_an_error(tmp_path: Path) -> None:
    with panicking(tmp_path) as live, watching(live.source, tmp_path / "dumps") as watch:
        told(watch, "watching qmp:")
        with contextlib.suppress(EOFError, OSError):
            live.qmp.command("quit")
        assert "the guest ended before it panicked" in told(watch, "pydump: error: ")
        assert watch.wait(60) == 1


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("qmp:{}/none", "{}/dumps"), 1, "none"),
        (("{}/file", "{}/dumps"), 2, "is not a guest that says what happens to it"),
        (("qmp:{}/none", "{}/dumps", "--on", "boredom"), 2, "unknown event 'boredom'; available: panicked"),
        (("qmp:{}/none", "{}/dumps", "--keep", "0"), 2, "--keep must be at least 1"),
        (("qmp:{}/none", "{}/dumps", "--", "--detach"), 2, "--detach does not go with watch"),
        (("qmp:{}/none", "{}/dumps", "--", "--resume"), 2, "--resume does not go with watch"),
        (("qmp:{}/none", "{}/file/dumps"), 2, "file is not a directory"),
    ],
)
def test_what_is_wrong_is_said_before_it_waits(
    tmp_path: Path, pydump: Callable[..., Any], words: tuple[str, ...], code: int, said: str
) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert said in pydump("watch", *(word.format(tmp_path) for word in words), expect=code).stderr


def test_an_option_that_dump_refuses_is_refused_before_it_waits(tmp_path: Path) -> None:
    with panicking(tmp_path) as live:
        with watching(live.source, tmp_path / "dumps", "--", "--format", "none-such") as watch:
            assert "none-such" in told(watch, "pydump: error: ")
            assert watch.wait(60) == 2
        assert live.state == "prelaunch"
