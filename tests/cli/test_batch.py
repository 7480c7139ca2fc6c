"""``pydump batch``: many jobs, each on its own; what is complete is not done again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import forked_jobs

Qemu = Callable[[str, str], Path]
Run = Callable[..., Any]
Refuse = Callable[..., str]


@pytest.fixture
def dumps(qemu: Qemu, tmp_path: Path) -> Path:
    """A directory with two dumps, one that is cut off, and one file that is not a dump."""
    where = tmp_path / "in"
    where.mkdir()
    for name in ("bare-aarch64", "bare-s390x"):
        (where / f"{name}.elf").write_bytes(qemu(name, "elf").read_bytes())
    (where / "cut.elf").write_bytes(qemu("bare-aarch64", "elf").read_bytes()[:20000])
    (where / "text.elf").write_text("this is text\n")
    return where


def journal(path: Path) -> list[dict[str, Any]]:
    """What the journal says of jobs that have ended; a line that was cut off has none."""
    values = []
    for line in path.read_text().splitlines():
        with suppress(ValueError):  # a run writes it, or was killed meanwhile
            values.append(json.loads(line))
    return [value for value in values if "begun" not in value]


def test_each_file_is_a_job_and_one_that_fails_does_not_end_the_others(dumps: Path, run: Run, tmp_path: Path) -> None:
    done = run("batch", "--each", "in/*.elf", "--to", "{name}.kdump", "dump", "-d", "1")
    assert done.code == 3
    assert done.out.split("\n")[:3] == ["     2  complete", "     1  failed", "     1  incomplete"]
    assert "4/4" in done.err
    assert "text.elf: no installed format reads it" in done.err
    assert sorted(path.name for path in tmp_path.glob("*.kdump")) == [
        "bare-aarch64.kdump", "bare-s390x.kdump", "cut.kdump",
    ]  # fmt: skip
    assert run("compare", "--ignore-excluded", "in/bare-s390x.elf", "bare-s390x.kdump").code == 0
    ends = {value["job"]["source"]: value["exit_code"] for value in journal(tmp_path / "pydump-batch.done")}
    assert ends == {"in/bare-aarch64.elf": 0, "in/bare-s390x.elf": 0, "in/cut.elf": 3, "in/text.elf": 1}


def test_resume_skips_what_is_complete_and_unchanged(dumps: Path, run: Run, tmp_path: Path) -> None:
    words = ("batch", "--resume", "--each", "in/*.elf", "--to", "{name}.kdump", "dump", "--force")
    run(*words)
    assert run(*words).err.count("/4 ") == 1  # the one that failed
    (dumps / "cut.elf").write_bytes((dumps / "cut.elf").read_bytes() + bytes(100))
    (tmp_path / "bare-s390x.kdump").unlink()
    again = run(*words)
    assert sorted(line.split()[4] for line in again.err.splitlines()) == [
        "in/bare-s390x.elf", "in/cut.elf", "in/text.elf",
    ]  # fmt: skip
    # Another level is another job.
    assert run(*words, "-d", "1").err.count("/4 ") == 4


def test_a_list_has_jobs_of_several_kinds(dumps: Path, run: Run, tmp_path: Path) -> None:
    jobs = [
        {"command": "dump", "source": "in/bare-s390x.elf", "to": "s390x.kdump"},
        {"command": "verify", "source": "in/bare-s390x.elf"},
        {"command": "info", "source": "in/bare-s390x.elf", "to": "s390x.txt", "options": ["--notes"]},
    ]
    (tmp_path / "jobs").write_text("# three jobs\n\n" + "\n".join(map(json.dumps, jobs)) + "\n")
    done = run("batch", "--json", "jobs")
    assert done.code == 3
    told = {value["job"]["command"]: value for value in map(json.loads, done.out.splitlines())}
    assert told["dump"]["report"]["format"] == "kdump"
    assert told["verify"]["exit_code"] == 4
    assert "defects, the first: " in told["verify"]["error"]
    assert told["info"]["exit_code"] == 0
    assert (tmp_path / "s390x.txt").read_text() == run("info", "--notes", "in/bare-s390x.elf").out
    assert (tmp_path / "jobs.done").exists()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("[]", "not an object with the strings command and source"),
        ("{", "Expecting property name"),
        ('{"command": "dump", "source": "a"}', "dump needs an output"),
        ('{"command": "status", "source": "a"}', "unknown command 'status'; available: dump, verify"),
        ('{"command": "info", "source": "a", "out": "b"}', "unknown key: out"),
        ('{"command": "info", "source": "a", "options": "-d"}', "options a list of strings"),
    ],
)
def test_a_line_that_is_no_job_is_named(line: str, why: str, refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "jobs").write_text(f"# jobs\n{line}\n")
    said = refuse(2, "batch", "jobs")
    assert said.startswith("jobs, line 2: ")
    assert why in said


def test_what_cannot_be_done_is_refused(dumps: Path, refuse: Refuse) -> None:
    assert "no file matches nowhere*" in refuse(2, "batch", "--each", "nowhere*", "verify")
    assert "would both be written to out" in refuse(2, "batch", "--each", "in/*.elf", "--to", "out", "dump")
    assert "available: {name} and {file}" in refuse(2, "batch", "--each", "in/*", "--to", "{x}", "dump")
    assert "--each PATTERN" in refuse(2, "batch", "dump", "-d", "31")
    assert "cannot read jobs" in refuse(1, "batch", "jobs")
    assert "--journal FILE" in refuse(2, "batch", "-")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--to", "{name}.kdump", "dump", "--fromat", "elf"), "No such option: --fromat"),
        (("verify", "--workers", "many"), "Invalid value for '--workers'"),
        (("info", "--jsno"), "see pydump info --help"),
    ],
)
def test_a_misspelt_option_is_refused_before_the_journal_begins(
    dumps: Path, refuse: Refuse, words: tuple[str, ...], why: str
) -> None:
    assert why in refuse(2, "batch", "--each", "in/*.elf", *words)


def test_a_list_with_a_misspelt_option_is_refused(dumps: Path, refuse: Refuse, tmp_path: Path) -> None:
    jobs = [
        {"command": "info", "source": "in/bare-s390x.elf"},
        {"command": "info", "source": "in/bare-s390x.elf", "options": ["--quite"]},
    ]
    (tmp_path / "jobs").write_text("\n".join(map(json.dumps, jobs)))
    assert "No such option: --quite" in refuse(2, "batch", "jobs")


def test_a_journal_of_other_or_complete_jobs_does_not_stand_in_the_way(dumps: Path, run: Run, tmp_path: Path) -> None:
    words = ("batch", "--each", "in/bare*.elf")
    dump = (*words, "--to", "{name}.kdump", "dump")
    assert run(*dump).code == 0
    assert run(*words, "info").code == 0
    assert run(*words, "info").err.count("/2 complete") == 2  # each runs again
    again = run("batch", "--resume", *dump[1:])  # what was known of the dumps is not lost
    assert "2  of them skipped" in again.out
    (dumps / "bare-new.elf").write_bytes((dumps / "cut.elf").read_bytes())
    said = run(*dump)
    assert (said.code, said.out) == (2, "")
    assert "is the journal of an earlier run of these jobs, which is not complete; --resume continues it" in said.err


def test_a_run_that_failed_is_continued_with_resume(dumps: Path, run: Run, refuse: Refuse) -> None:
    words = ("--each", "in/*.elf", "info")
    assert run("batch", *words).code == 3  # in/text.elf
    assert "which is not complete; --resume continues it" in refuse(2, "batch", *words)
    assert run("batch", "--resume", *words).err.count("/4 ") == 1  # the one that failed


def test_resume_after_the_command_is_told_where_it_belongs(dumps: Path, run: Run, refuse: Refuse) -> None:
    words = ("batch", "--each", "in/*.elf", "--to", "{name}.kdump", "dump", "--resume")
    assert run(*words).code == 3
    assert "put --resume before dump" in refuse(2, *words)


@pytest.mark.parametrize("resume", [(), ("--resume",)])
def test_a_file_that_is_no_journal_is_left_alone(
    dumps: Path, refuse: Refuse, tmp_path: Path, resume: tuple[str, ...]
) -> None:
    (tmp_path / "notes.txt").write_text("buy milk")
    said = refuse(2, "batch", *resume, "--journal", "notes.txt", "--each", "in/*.elf", "info")
    assert said.startswith("notes.txt is not a journal of pydump batch; ")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--to", "{name}.kd", "dump", "--detach"), "--detach does not go with batch; leave it out"),
        (("--to", "{name}.kd", "dump", "out"), "out is not an option of dump; leave it out: "),
        (("verify", "out"), "out is not an option of verify; leave it out: "),
        (("info", "--notes", "out"), "out is not an option of info; leave it out: "),
        (("--to", "-", "info"), "a job cannot write to -; name a file"),
        (("--to", "fd:1", "dump"), "a job cannot write to fd:1; name a file"),
        (("--to", "{name", "dump"), "--to {name is not a template; available: {name} and {file}"),
        (("--to", "{}", "dump"), "--to {} is not a template; available: {name} and {file}"),
        (("--to", "{name.x}", "dump"), "--to {name.x} is not a template; available: {name} and {file}"),
        (("--to", "{name[a]}", "dump"), "--to {name[a]} is not a template; available: {name} and {file}"),
    ],
)
def test_words_that_batch_cannot_keep_are_refused_as_they_were_typed(
    dumps: Path, run: Run, words: tuple[str, ...], why: str
) -> None:
    said = run("batch", "--each", "in/bare-s390x.elf", *words)
    assert (said.code, said.out) == (2, "")  # nobody has asked for JSON
    assert said.err.startswith(f"pydump: error: {why}")


@pytest.mark.slow
def test_200_dumps_are_done_once_however_often_the_run_is_killed(qemu: Qemu, tmp_path: Path) -> None:
    """10 of them are damaged, and named. No process is left of a run that was killed."""
    (tmp_path / "in").mkdir()
    whole = qemu("bare-aarch64", "elf").read_bytes()
    damaged = {f"in/{number:03}.elf" for number in range(0, 200, 20)}
    for number in range(200):
        content = b"text" * 1000 if number % 20 == 0 else whole
        (tmp_path / "in" / f"{number:03}.elf").write_bytes(content)
    words = ["batch", "--resume", "--each", "in/*.elf", "--to", "{name}.kdump", "dump", "--no-sync"]
    command = [sys.executable, forked_jobs.__file__, *words]
    record = tmp_path / "pydump-batch.done"
    chance = random.Random(16)

    def ended() -> int:
        return len({value["job"]["source"] for value in journal(record)}) if record.exists() else 0

    for kill in (signal.SIGKILL, signal.SIGTERM):
        goal = ended() + chance.randint(20, 60)
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        until = time.monotonic() + 60
        while ended() < goal and time.monotonic() < until:
            time.sleep(0.1)
        children = (Path(f"/proc/{process.pid}/task/{process.pid}/children")).read_text().split()
        process.send_signal(kill)
        process.communicate(timeout=60)
        deadline = time.monotonic() + 20
        while any(os.path.exists(f"/proc/{child}") for child in children) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(os.path.exists(f"/proc/{child}") for child in children)
        assert goal <= ended() < 200
    # As if the last run had been killed between the end of a dump and the journal's line.
    lines = record.read_text().splitlines(keepends=True)
    last = next(line for line in reversed(lines) if '"exit_code": 0' in line)
    record.write_text("".join(line for line in lines if line != last) + last[: len(last) // 2])
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 3
    assert done.stdout.splitlines()[:2] == ["   190  complete", "    10  failed"]
    assert {name for name in damaged if name in done.stderr} == damaged
    counts = Counter(value["job"]["source"] for value in journal(record) if value["exit_code"] == 0)
    assert len(counts) == 190
    assert set(counts.values()) == {1}
    assert len(list(tmp_path.glob("*.kdump"))) == 190
