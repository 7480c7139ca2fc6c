"""An interrupted dump to S3 is continued: what is stored is used if it is right, and nothing else is."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pydump
from pydump.engine import identity
from pydump.errors import PlanError, PydumpError, UnsupportedError
from pydump.interfaces.image import MemoryImage
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap
from pydump_storage_fsspec import S3Storage, parts
from pydump_storage_fsspec.unfinished import LAST, marks
from s3_proxy import Proxy
from s3_store import content, names, uploads

pytestmark = pytest.mark.slow

MIB = 1 << 20
#: Bytes of a part here, the least that S3 takes.
PART = 5 * MIB
COMMAND = (
    "import pydump_storage_fsspec.parts as parts; parts.SMALLEST = 5 << 20; from pydump.__main__ import main; main()"
)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "SMALLEST", PART)


@pytest.fixture
def ram(tmp_path: Path) -> Path:
    """32 MiB that do not shrink: seven parts."""
    path = tmp_path / "ram"
    path.write_bytes(np.random.default_rng(2).integers(0, 256, 32 * MIB, np.uint8).tobytes())
    return path


def dump(ram: Path, output: str, **options: Any) -> Any:
    given = {"arch": "x86_64", "workers": 1, "no_vmcoreinfo": True, "compression": "none", **options}
    return pydump.dump(f"raw:{ram}@0", output, **given)


def part_in(request: str) -> int | None:
    """The number of the part that a request sends, or None where it sends none, or a mark."""
    match = re.match(r"PUT .*partNumber=(\d+)", request)
    return int(match[1]) if match and int(match[1]) <= parts.MOST else None


def sent(proxy: Proxy) -> list[int]:
    """The numbers of the parts that were sent."""
    return sorted(number for line in proxy.requests if (number := part_in(line)) is not None)


def kill_when(ready: Callable[[], bool], proxy: Proxy, ram: Path, url: str, *words: str) -> tuple[int, str]:
    """Kill a dump by SIGKILL when it sends a part and ``ready``: how it ended, and what it said."""
    command = [sys.executable, "-c", COMMAND, "dump", f"raw:{ram}@0", url, "--arch", "x86_64", "--no-vmcoreinfo"]
    command += ["--workers", "1", "--compression", "none", *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    seen: list[str] = []

    def hold(line: str) -> bool:
        if part_in(line) and not seen and ready():
            seen.append(line)
            process.send_signal(signal.SIGKILL)
        return bool(seen)

    proxy.hold = hold
    try:
        _, said = process.communicate(timeout=90)
    finally:
        process.kill()
        process.wait()
        proxy.hold = lambda line: False
    return process.returncode, said


def stored(boto: Any, bucket: str) -> dict[int, int]:
    """The size of each part that is stored of the only upload, by number, marks left out."""
    (upload,) = boto.list_multipart_uploads(Bucket=bucket)["Uploads"]
    found = boto.list_parts(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"]).get("Parts", [])
    return {part["PartNumber"]: part["Size"] for part in found if part["PartNumber"] <= parts.MOST}


def test_a_killed_dump_is_continued_wherever_it_was_killed(
    boto: Any, bucket: str, proxy: Proxy, ram: Path, tmp_path: Path
) -> None:
    """At phases by chance, one after the other: each run uses what those before it have stored."""
    url, chance = f"s3://{bucket}/x", random.Random(7)
    there: dict[int, int] = {}
    # When the last part is sent three have been stored: four are on their way.
    for least in (0, chance.randint(1, 2), 3):

        def ready(least: int = least) -> bool:
            return len(stored(boto, bucket)) >= least

        assert kill_when(ready, proxy, ram, url, "--resume") == (-signal.SIGKILL, "")
        assert (names(boto, bucket), uploads(boto, bucket)) == ([], ["x"])
        now = stored(boto, bucket)
        assert now.items() >= there.items()
        there = now
    proxy.requests.clear()
    report = dump(ram, url, resume=True)
    dump(ram, str(tmp_path / "own"))
    assert content(boto, bucket, "x") == (tmp_path / "own").read_bytes()
    assert there, "something was stored"
    assert sorted([*sent(proxy), *there]) == list(range(1, 8)), "no part is sent that was there"
    assert report.resumed_size == sum(there.values())
    assert uploads(boto, bucket) == []


def interrupted(boto: Any, bucket: str, ram: Path, **options: Any) -> None:
    """Leave what a killed run leaves, by this process: a failure with --resume keeps its parts."""

    def fail(progress: Any) -> None:
        if progress.phase == "dump" and progress.done > 24 * MIB:
            raise PydumpError("killed")

    with pytest.raises(PydumpError, match="^killed$"):
        dump(ram, f"s3://{bucket}/x", resume=True, progress=fail, **options)
    assert stored(boto, bucket)


def test_a_part_that_is_not_what_it_should_be_is_sent_again(
    boto: Any, bucket: str, proxy: Proxy, ram: Path, tmp_path: Path
) -> None:
    interrupted(boto, bucket, ram)
    (upload,) = boto.list_multipart_uploads(Bucket=bucket)["Uploads"]
    there = stored(boto, bucket)
    other, short = sorted(there)[:2]
    for number, data in ((other, bytes(PART)), (short, b"short")):
        boto.upload_part(Bucket=bucket, Key="x", UploadId=upload["UploadId"], PartNumber=number, Body=data)
    proxy.requests.clear()
    report = dump(ram, f"s3://{bucket}/x", resume=True)
    dump(ram, str(tmp_path / "own"))
    assert content(boto, bucket, "x") == (tmp_path / "own").read_bytes()
    assert {other, short} <= set(sent(proxy))
    assert report.resumed_size == PART * (len(there) - 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("time", "the input"),
        ("content", "the input"),
        ("compression", "the options"),
        ("exclude", "the options"),
        ("version", "the version of pydump, a plugin or a library"),
    ],
)
def test_what_has_changed_is_refused_and_named(
    boto: Any, bucket: str, keys: None, ram: Path, change: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(boto, bucket, ram)
    options: dict[str, Any] = {}
    status = ram.stat()
    match change:
        case "time":
            os.utime(ram, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        case "content":
            ram.write_bytes(ram.read_bytes() + bytes(MIB))
            os.utime(ram, ns=(status.st_atime_ns, status.st_mtime_ns))
        case "compression":
            options["compression"] = "zlib"
        case "exclude":
            options["exclude"] = ["zero"]
        case "version":
            monkeypatch.setattr(identity.metadata, "version", lambda name: "9.9")
    before = stored(boto, bucket)
    refused = rf"^s3://{bucket}/x cannot be resumed: since it was begun, {said} (and .*)?changed; "
    with pytest.raises(PlanError, match=refused):
        dump(ram, f"s3://{bucket}/x", resume=True, **options)
    assert stored(boto, bucket) == before


def test_what_decides_nothing_may_be_another(boto: Any, bucket: str, proxy: Proxy, ram: Path, tmp_path: Path) -> None:
    """How many workers there are, and whether an object is replaced."""
    boto.put_object(Bucket=bucket, Key="x", Body=b"old")
    interrupted(boto, bucket, ram, force=True)
    report = dump(ram, f"s3://{bucket}/x", resume=True, force=True, workers=2)
    dump(ram, str(tmp_path / "own"))
    assert content(boto, bucket, "x") == (tmp_path / "own").read_bytes()
    assert report.resumed_size >= PART


def test_with_nothing_to_resume_it_begins(boto: Any, bucket: str, keys: None, ram: Path) -> None:
    boto.create_multipart_upload(Bucket=bucket, Key="x")  # another program's
    report = dump(ram, f"s3://{bucket}/x", resume=True)
    assert (report.resumed_size, names(boto, bucket)) == (0, ["x"])
    with pytest.raises(PlanError, match=r"^s3://.*/x is complete: the dump to resume is there; there is nothing to do"):
        dump(ram, f"s3://{bucket}/x", resume=True)


def test_without_the_option_a_failure_leaves_nothing(boto: Any, bucket: str, keys: None, ram: Path) -> None:
    def fail(progress: Any) -> None:
        if progress.done > 24 * MIB:
            raise PydumpError("failed")

    with pytest.raises(PydumpError, match="^failed$"):
        dump(ram, f"s3://{bucket}/x", progress=fail)
    assert uploads(boto, bucket) == []


class Unnamed(MemoryImage):
    """Memory that no other run can open."""

    def guest(self) -> Guest:
        return Guest(MemoryMap.of([(0, 4096)]))

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        buffer[:] = bytes(len(buffer))


@pytest.mark.parametrize(
    ("source", "output", "said"),
    [
        (lambda ram: f"raw:{ram}@0", "{tmp}/out", "cannot continue an interrupted dump; leave --resume out"),
        (lambda ram: Unnamed(), "s3://{bucket}/x", "cannot be read again as it was; leave --resume out"),
    ],
)
def test_what_cannot_be_resumed_is_refused(
    bucket: str, keys: None, ram: Path, tmp_path: Path, source: Callable[[Path], Any], output: str, said: str
) -> None:
    target = output.format(tmp=tmp_path, bucket=bucket)
    with pytest.raises(UnsupportedError, match=said):
        pydump.dump(source(ram), target, arch="x86_64", resume=True, no_vmcoreinfo=True)
    assert os.listdir(tmp_path) == ["ram"]


def test_marks_lie_above_all_parts() -> None:
    """Source: Amazon S3 User Guide, "Multipart upload limits": numbers from 1 to 10,000."""
    made = marks({"a": "1", "b": "2", "c": "3"})
    assert [mark.number for mark in made] == [10_000, 9_999, 9_998]
    assert min(mark.number for mark in made) > parts.MOST
    assert LAST == 10_000


def test_a_split_set_is_resumed(boto: Any, bucket: str, proxy: Proxy, ram: Path, tmp_path: Path) -> None:
    def fail(progress: Any) -> None:
        if progress.phase == "dump" and progress.done > 24 * MIB:
            raise PydumpError("killed")

    url = f"s3://{bucket}/x.%d"
    with pytest.raises(PydumpError, match="^killed$"):
        dump(ram, url, split=2, resume=True, progress=fail)
    assert sorted(uploads(boto, bucket)) == ["x.0", "x.1"]
    report = dump(ram, url, split=2, resume=True)
    dump(ram, f"{tmp_path}/own.%d", split=2)
    for number in (0, 1):
        assert content(boto, bucket, f"x.{number}") == (tmp_path / f"own.{number}").read_bytes()
    assert report.resumed_size >= 2 * PART
    assert [one.url for one in S3Storage.leftovers(f"s3://{bucket}")] == []
