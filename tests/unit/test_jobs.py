"""Job files are believed as far as they are ours: what somebody else wrote or planted there does nothing."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from pydump.cli import jobs
from pydump.cli.jobs import JobFile
from pydump.errors import PydumpError

#: nobody.
OTHER = 65534

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files that belong to another user")


@pytest.fixture
def where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where jobs are kept."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home" / "state"))
    return tmp_path / "home" / "state" / "pydump" / "jobs"


def ended(number: Any = 1, **values: Any) -> str:
    """The file of a job that has ended."""
    job = jobs.Job(1, 1, 1, "raw:ram@0", "/nowhere", status="failed", exit_code=1, error="no", began=1.0, ended=2.0)
    return json.dumps(asdict(job) | {"number": number} | values)


@pytest.mark.parametrize("umask", [0, 0o777])
def test_only_the_user_can_read_jobs(where: Path, tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        JobFile("raw:ram@0", "out")
    finally:
        os.umask(before)
    for path in (tmp_path / "home", tmp_path / "home/state", where.parent, where):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert [(path.name, stat.S_IMODE(path.stat().st_mode)) for path in where.iterdir()] == [("1.json", 0o600)]


def test_a_job_is_named_by_its_file(where: Path) -> None:
    """A number in the file that is a path would have another file deleted when old jobs are forgotten."""
    JobFile("raw:ram@0", "out").remove()
    victim = where.parents[1] / "victim.json"
    victim.write_text("precious")
    for number in range(1, 61):
        (where / f"{number}.json").write_text(ended("../../victim"))
    assert [job.number for job in jobs.jobs()] == list(range(1, 61))
    assert JobFile("raw:ram@0", "out").job.number == 61
    assert victim.read_text() == "precious"
    assert len(list(where.iterdir())) == jobs.KEPT + 1


@pytest.mark.parametrize(
    "damaged",
    [
        "",
        "[]",
        "null",
        "{}",
        "\0",
        "[" * 100_000,
        '{"number": 1}',
        ended(pid="1"),
        ended(pid=-1),
        ended(pid=10**30),
        ended(total=1.5),
        ended(output=None),
        ended(output="a\0b"),
        ended(status="lost"),
        ended(began=1e300),
        ended(began=float("nan")),
        ended(report=[]),
        ended(more=1),
    ],
    ids=range(18),
)
def test_a_damaged_file_does_not_break_the_list(where: Path, damaged: str) -> None:
    job = JobFile("raw:ram@0", "out")
    job.end(0)
    (where / "7.json").write_text(damaged)
    assert jobs.jobs() == [job.job]
    assert JobFile("raw:ram@0", "out").job.number == 2


def test_what_is_no_file_of_ours_is_not_read(where: Path, tmp_path: Path) -> None:
    job = JobFile("raw:ram@0", "out")
    (tmp_path / "elsewhere.json").write_text(ended())
    (where / "2.json").symlink_to(tmp_path / "elsewhere.json")
    os.mkfifo(where / "3.json")
    (where / "4.json").mkdir()
    for name in ("5.json.json", "٣.json", "0.json", "-1.json", "1e3.json"):
        (where / name).write_text(ended())
    if os.geteuid() == 0:
        (where / "6.json").write_text(ended())
        os.chown(where / "6.json", OTHER, OTHER)
    assert jobs.jobs() == [job.job]


def test_a_planted_link_is_not_written_through(where: Path, tmp_path: Path) -> None:
    job = JobFile("raw:ram@0", "out")
    precious = tmp_path / "precious"
    precious.write_text("ours")
    (where / "1.new").symlink_to(precious)
    (where / "2.json").symlink_to(tmp_path / "nothing")
    job.end(0)
    assert JobFile("raw:ram@0", "out").job.number == 3
    assert precious.read_text() == "ours"
    assert not (tmp_path / "nothing").exists()
    assert not (where / "1.json").is_symlink()
    assert [one.status for one in jobs.jobs()] == ["completed", "active"]


@needs_root
@pytest.mark.parametrize("whose", ["pydump", "pydump/jobs"])
def test_a_directory_that_belongs_to_somebody_else_is_refused(where: Path, whose: str) -> None:
    JobFile("raw:ram@0", "out")
    os.chown(where.parents[1] / whose, OTHER, OTHER)
    for use in (jobs.jobs, lambda: JobFile("raw:ram@0", "out")):
        with pytest.raises(PydumpError, match="belongs to user 65534; set XDG_STATE_HOME to a directory of your own$"):
            use()


@pytest.mark.parametrize("whose", ["pydump", "pydump/jobs"])
def test_a_directory_that_others_can_write_to_is_refused(where: Path, whose: str) -> None:
    JobFile("raw:ram@0", "out")
    (where.parents[1] / whose).chmod(0o1777)
    for use in (jobs.jobs, lambda: JobFile("raw:ram@0", "out")):
        with pytest.raises(PydumpError, match="is open to other users"):
            use()


def test_a_link_in_place_of_the_directory_is_refused(where: Path, tmp_path: Path) -> None:
    where.parent.mkdir(parents=True, mode=0o700)
    (tmp_path / "theirs").mkdir()
    where.symlink_to(tmp_path / "theirs")
    with pytest.raises(PydumpError, match="cannot keep a job"):
        JobFile("raw:ram@0", "out")
    assert list((tmp_path / "theirs").iterdir()) == []


def test_a_job_whose_process_is_gone_has_failed(where: Path) -> None:
    job = JobFile("raw:ram@0", "out")
    lost = replace(job.job, pid_started=job.job.pid_started + 1)
    (where / "1.json").write_text(json.dumps(asdict(lost)))
    assert [one.status for one in jobs.jobs()] == ["failed"]
