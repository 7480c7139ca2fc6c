"""Dumps that go on behind the command line."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pydump

Qemu = Callable[[str, str], Path]
Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the jobs of one test are kept."""
    path = tmp_path_factory.mktemp("state")
    monkeypatch.setenv("XDG_STATE_HOME", str(path))
    return path


@pytest.fixture
def slow(tmp_path: Path) -> tuple[str, ...]:
    """A dump that takes seconds."""
    (tmp_path / "ram").write_bytes(random.Random(2).randbytes(64 << 20))
    return "dump", "raw:ram@0", "out", "--arch", "x86_64", "--compression", "zstd", "--zstd-level", "19", "--detach"


def ended(run: Run, job: str) -> dict[str, Any]:
    """The job when it has ended."""
    for _ in range(600):
        told: dict[str, Any] = json.loads(run("status", job, "--json").out)
        if told["status"] != "active":
            return told
        time.sleep(0.1)
    raise AssertionError(f"job {job} does not end")


def test_a_job_from_begin_to_end(slow: tuple[str, ...], run: Run, tmp_path: Path) -> None:
    done = run(*slow)
    assert (done.code, done.err) == (0, "")
    assert done.out == "job 1 continues in the background; pydump status 1 shows its progress\n"
    assert not (tmp_path / "out").exists()
    told = json.loads(run("status", "1", "--json").out)
    assert (told["status"], told["output"], told["source"]) == ("active", str(tmp_path / "out"), "raw:ram@0")
    assert os.getpgid(told["pid"]) == told["pid"]  # nobody's Ctrl-C reaches it
    told = ended(run, "out")
    assert (told["status"], told["exit_code"], told["error"]) == ("completed", 0, None)
    assert told["completed"] == told["total"] == 64 << 20
    assert told["report"]["output_size"] == (tmp_path / "out").stat().st_size
    with pydump.open(tmp_path / "out") as vmcore:
        assert vmcore.read(0, 64 << 20) == (tmp_path / "ram").read_bytes()
    shown = run("status").out
    assert [line.split()[:2] for line in shown.splitlines()] == [["job", "status"], ["1", "completed"]]
    assert f"  64.0 MiB of 64.0 MiB  {tmp_path / 'out'}  raw:ram@0  20" in shown


def test_a_dump_that_lacks_memory_is_incomplete(qemu: Qemu, run: Run, tmp_path: Path) -> None:
    (tmp_path / "cut").write_bytes(qemu("bare-aarch64", "elf").read_bytes()[:20000])
    assert run("dump", "cut", "out", "--detach").code == 0
    told = ended(run, "1")
    assert (told["status"], told["exit_code"], told["error"]) == ("incomplete", 3, None)
    assert run("status").out.splitlines()[1].split()[:2] == ["1", "incomplete"]
    assert run("status", "--wait").code == 3


def test_what_fails_before_the_capture_leaves_no_job(qemu: Qemu, run: Run, tmp_path: Path, state: Path) -> None:
    (tmp_path / "there").write_text("precious")
    done = run("dump", qemu("nano-x86_64", "elf"), "there", "--detach")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "there exists" in done.err
    assert run("dump", "nowhere", "out", "--detach").code == 1
    assert json.loads(run("status", "--json").out) == {"schema": 1, "jobs": []}
    told = run("status")
    assert (told.out, told.err) == ("", "pydump: no jobs; pydump dump --detach starts one\n")
    assert run("-q", "status").err == ""
    assert not [path for path in state.rglob("*") if path.is_file()]


def test_a_job_that_is_killed(slow: tuple[str, ...], run: Run, tmp_path: Path) -> None:
    assert run(*slow).code == 0
    os.kill(json.loads(run("status", "1", "--json").out)["pid"], signal.SIGKILL)
    told = ended(run, "1")
    assert (told["status"], told["error"]) == ("failed", "its process was ended; its output is not there")
    assert not (tmp_path / "out").exists()
    assert "failed" in run("status").out


def test_a_job_that_is_ended(slow: tuple[str, ...], run: Run, tmp_path: Path) -> None:
    assert run(*slow).code == 0
    os.kill(json.loads(run("status", "1", "--json").out)["pid"], signal.SIGTERM)
    told = ended(run, "1")
    assert (told["status"], told["exit_code"]) == ("failed", 130)
    assert not (tmp_path / "out").exists()


def test_two_jobs(slow: tuple[str, ...], run: Run) -> None:
    assert run(*slow).code == 0
    assert run(*slow[:2], "other", *slow[3:], "--json").out == '{"schema": 1, "job": 2}\n'
    assert [job["number"] for job in json.loads(run("status", "--json").out)["jobs"]] == [1, 2]
    assert ended(run, "other")["number"] == 2
    ended(run, "1")


def test_what_cannot_be_detached(qemu: Qemu, refuse: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    elf = qemu("nano-x86_64", "elf")
    assert "--detach writes a file in the background" in refuse(2, "dump", elf, "-", "--detach")
    assert "--detach writes a file in the background" in refuse(2, "dump", elf, "out", "--detach", "--dry-run")
    assert "there is no job 7; pydump dump --detach starts one" in refuse(2, "status", "7")
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/nowhere")
    assert "cannot keep a job in /proc/nowhere/pydump/jobs" in refuse(1, "dump", elf, "out", "--detach")


def test_its_output_is_not_held_open(
    slow: tuple[str, ...], tmp_path: Path, pydump_command: list[str], run: Run
) -> None:
    """A script that reads what is printed is not kept waiting by the job."""
    began = time.monotonic()
    out = subprocess.run([*pydump_command, *slow], cwd=tmp_path, stdout=subprocess.PIPE, timeout=60).stdout
    told = json.loads(run("status", "1", "--json").out)
    assert out.startswith(b"job 1")
    assert told["status"] == "active", f"it ended within {time.monotonic() - began:.1f} s"
    os.kill(told["pid"], signal.SIGTERM)
    ended(run, "1")


def test_a_job_whose_state_directory_goes(slow: tuple[str, ...], run: Run, tmp_path: Path, state: Path) -> None:
    """Nothing can be written there, as on a full disk; the dump goes on, and how it ended is said once it can be."""
    with (tmp_path / "ram").open("r+b") as ram:
        ram.truncate(16 << 20)
    assert run(*slow).code == 0
    shutil.rmtree(state / "pydump")
    (state / "pydump").write_text("in the way")
    for _ in range(600):
        if (tmp_path / "out").exists():
            break
        time.sleep(0.1)
    (state / "pydump").unlink()
    for _ in range(600):
        if run("status").out:
            break
        time.sleep(0.1)
    told = ended(run, "1")
    assert (told["status"], told["error"]) == ("completed", None)
    assert run("verify", "out").code == 0


def test_a_job_that_is_killed_when_its_output_is_there(slow: tuple[str, ...], run: Run, tmp_path: Path) -> None:
    assert run(*slow).code == 0
    job = json.loads(run("status", "1", "--json").out)
    os.kill(job["pid"], signal.SIGKILL)
    assert ended(run, "1")["status"] == "failed"
    (tmp_path / "out").write_text("renamed into its place just before")
    assert ended(run, "1")["status"] == "completed"
    os.utime(tmp_path / "out", (1, 1))
    assert ended(run, "1")["status"] == "completed"  # its times may be the guest's; when it came here is not


def test_waiting_for_a_job_exits_as_it_did(slow: tuple[str, ...], run: Run, tmp_path: Path) -> None:
    assert run("status", "--wait").code == 0  # there is none
    assert run(*slow).code == 0
    assert run("status", "--cancel", "1").code == 0
    told = json.loads(run("status", "1", "--json").out)
    assert (told["status"], told["exit_code"]) == ("failed", 130)
    assert not (tmp_path / "out").exists()
    assert run("status", "--wait").code == 130
    assert "job 1 has ended already; pydump status 1 shows how" in run("status", "--cancel", "1").err
    assert "--cancel needs a job" in run("status", "--cancel").err


def test_only_jobs_that_have_ended_are_forgotten(slow: tuple[str, ...], run: Run) -> None:
    assert run(*slow).code == 0
    said = run("status", "--clear", "1")
    assert (said.code, said.err) == (2, "pydump: error: job 1 is active; pydump status --cancel 1 ends it\n")
    assert run(*slow[:2], "other", *slow[3:]).code == 0
    run("status", "--cancel", "1")
    left = json.loads(run("status", "--clear", "--json").out)["jobs"]
    assert [job["number"] for job in left] == [2]
    assert [job["number"] for job in json.loads(run("status", "--json").out)["jobs"]] == [2]
    run("status", "--cancel", "2")
    assert run("status", "--clear", "2").code == 0
    told = run("status")
    assert (told.out, told.err) == ("", "pydump: no jobs; pydump dump --detach starts one\n")
    assert run("-q", "status").err == ""


CHILD = """
import os, signal
from pydump.cli import detach

def work(tell, captured):
    raise KeyboardInterrupt

def remove(job):
    {what}

detach.JobFile.remove = remove
print(detach.detached("source", "output", work).error)
"""


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("os.kill(os.getpid(), signal.SIGINT)", "interrupted"),
        ("raise KeyboardInterrupt", "the process that dumps ended with 1"),
    ],
)
def test_interrupted_once_more_while_it_ends(what: str, error: str) -> None:
    """One line is said, by one process: the other never returns to what its parent does."""
    done = subprocess.run([sys.executable, "-c", CHILD.format(what=what)], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == (f"{error}\n", "")
