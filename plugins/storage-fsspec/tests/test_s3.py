"""Dumps to an S3 server, from it and between buckets: the same bytes as in a file, whatever happens on the way."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import large_guest
import pydump
from pydump.cli import batch
from pydump.cli.facts import info_json
from pydump.errors import PlanError, PydumpError, ReadError, SinkError, SourceError
from pydump.testing import guests
from pydump_storage_fsspec import S3Storage, parts, remote
from s3_proxy import Proxy
from s3_store import content, names, uploads

pytestmark = pytest.mark.slow

MIB = 1 << 20


@pytest.fixture(scope="module")
def ram(tmp_path_factory: pytest.TempPathFactory) -> str:
    """56 MiB of bare memory: some that does not shrink, some that does, and zeros."""
    path = tmp_path_factory.mktemp("ram") / "ram"
    noise = np.random.default_rng(1).integers(0, 256, 36 * MIB, np.uint8).tobytes()
    path.write_bytes(noise + b"text of a page. " * (MIB // 4) + bytes(16 * MIB))
    return f"raw:{path}@0"


@pytest.fixture(scope="module")
def local(ram: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives a dump of it in a file, by format."""
    directory = tmp_path_factory.mktemp("local")

    def made(format: str) -> Path:
        path = directory / format
        if not path.exists():
            pydump.dump(ram, str(path), format=format, arch="x86_64")
        return path

    return made


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between attempts are short."""
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(remote, "LONGEST_WAIT", 0.05)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("format", ["kdump", "elf"])
def test_the_object_is_the_file(
    boto: Any, bucket: str, ram: str, local: Callable[[str], Path], format: str, workers: int
) -> None:
    report = pydump.dump(ram, f"s3://{bucket}/a/vmcore", format=format, arch="x86_64", workers=workers)
    wanted = local(format).read_bytes()
    assert content(boto, bucket, "a/vmcore") == wanted
    assert (report.flattened, report.output_size) == (False, len(wanted))
    assert len(wanted) > 2 * parts.SMALLEST, "it has several parts"
    assert uploads(boto, bucket) == []


def test_a_flattened_stream_is_one_as_well(boto: Any, bucket: str, ram: str, tmp_path: Path) -> None:
    pydump.dump(ram, f"s3://{bucket}/flat", format="kdump", arch="x86_64", flatten=True, workers=1)
    pydump.dump(ram, str(tmp_path / "flat"), format="kdump", arch="x86_64", flatten=True, workers=1)
    assert content(boto, bucket, "flat") == (tmp_path / "flat").read_bytes()


def test_a_dump_is_converted_from_one_bucket_to_another(
    boto: Any, bucket: str, local: Callable[[str], Path], tmp_path: Path
) -> None:
    boto.create_bucket(Bucket=f"{bucket}-2")
    boto.upload_file(str(local("elf")), bucket, "vmcore.elf")
    pydump.dump(f"s3://{bucket}/vmcore.elf", f"s3://{bucket}-2/vmcore", format="kdump", workers=2)
    pydump.dump(str(local("elf")), str(tmp_path / "vmcore"), format="kdump")
    assert content(boto, f"{bucket}-2", "vmcore") == (tmp_path / "vmcore").read_bytes()


def test_a_compressed_object_is_unpacked(boto: Any, bucket: str, local: Callable[[str], Path]) -> None:
    import gzip

    boto.put_object(Bucket=bucket, Key="vmcore.gz", Body=gzip.compress(local("kdump").read_bytes(), 1))
    with pydump.open(f"s3://{bucket}/vmcore.gz") as dump:
        assert dump.read(8, 16) == pydump.open(str(local("kdump"))).read(8, 16)


def test_failing_slow_and_cut_connections_give_the_same_bytes(
    boto: Any, bucket: str, ram: str, local: Callable[[str], Path], proxy: Proxy, hasty: None, tmp_path: Path
) -> None:
    proxy.failing, proxy.cutting, proxy.rate = 0.05, 0.05, 100 * MIB
    for turn in range(3):
        pydump.dump(ram, f"s3://{bucket}/{turn}", format="kdump", arch="x86_64", workers=2)
        assert content(boto, bucket, str(turn)) == local("kdump").read_bytes()
        pydump.dump(f"s3://{bucket}/{turn}", str(tmp_path / str(turn)), format="elf", workers=2)
        assert (tmp_path / str(turn)).read_bytes() == local("elf").read_bytes()
    assert len(proxy.requests) > 50


@pytest.mark.parametrize("force", [False, True])
def test_a_lost_answer_to_the_last_request_is_no_failure(
    boto: Any, bucket: str, ram: str, local: Callable[[str], Path], proxy: Proxy, hasty: None, force: bool
) -> None:
    """The store has made the object, and says to the second request that it is there, or the upload is not."""
    lost: list[str] = []

    def drop(line: str) -> bool:
        completes = re.match(r"POST .*uploadId=", line) is not None and not lost
        lost.extend([line] if completes else [])
        return completes

    proxy.drop = drop
    pydump.dump(ram, f"s3://{bucket}/x", format="kdump", arch="x86_64", force=force)
    assert lost
    assert content(boto, bucket, "x") == local("kdump").read_bytes()


def test_a_store_that_fails_for_good_is_an_error_in_one_line(
    boto: Any, bucket: str, ram: str, local: Callable[[str], Path], proxy: Proxy, hasty: None, tmp_path: Path
) -> None:
    boto.upload_file(str(local("kdump")), bucket, "vmcore")
    with pydump.open(f"s3://{bucket}/vmcore") as dump:
        proxy.failing = 1.0
        with pytest.raises(SourceError, match=r"^cannot read s3://.*: Please reduce your request rate"):
            dump.read(24 * MIB, 4096)
    proxy.failing = 0.0
    before = len(proxy.requests)
    sink = S3Storage.writer(f"s3://{bucket}/new")
    proxy.failing = 1.0
    with pytest.raises(
        SinkError, match=r"^cannot write s3://.*: Please reduce your request rate; nothing appeared there"
    ):
        sink.commit(100)
    assert len(proxy.requests) - before < 6 * remote.ATTEMPTS
    assert names(boto, bucket) == ["vmcore"]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://no-such-bucket/vmcore", "cannot write s3://no-such-bucket/vmcore: The specified bucket does not exist"),
        ("s3://bucket", "s3://bucket names a bucket, and no object in it; write s3://BUCKET/NAME"),
        ("s3://", "'s3://' names no object; write s3://BUCKET/NAME"),
        ("s3:x", "'s3:x' names no object; write s3://BUCKET/NAME"),
        ("http://127.0.0.1:1/x", "http://127.0.0.1:1/x cannot be written: http is for reading only"),
        ("gs://bucket/x", "gs://bucket/x cannot be written: gs is for reading only"),
    ],
)
def test_what_cannot_be_written_is_said_before_anything_is_read(url: str, said: str, keys: None, ram: str) -> None:
    with pytest.raises(PydumpError) as caught:
        pydump.dump(ram, url, format="kdump", arch="x86_64")
    assert str(caught.value).startswith(said)


def test_a_library_that_is_missing_is_named(ram: str) -> None:
    with pytest.raises(PlanError, match=r"^gs:// needs a library that is not installed; pip install 'pydump-storage-f"):
        pydump.open("gs://bucket/vmcore")


def test_an_object_that_is_there_is_not_replaced(boto: Any, bucket: str, ram: str) -> None:
    boto.put_object(Bucket=bucket, Key="x", Body=b"old")
    for dry_run in (True, False):
        with pytest.raises(PlanError, match=r"^s3://.*/x exists; choose another name, or replace it with --force"):
            pydump.dump(ram, f"s3://{bucket}/x", format="kdump", arch="x86_64", dry_run=dry_run)
    assert content(boto, bucket, "x") == b"old"
    assert uploads(boto, bucket) == []


def test_a_dry_run_leaves_nothing(boto: Any, bucket: str, ram: str) -> None:
    report = pydump.dump(ram, f"s3://{bucket}/x", format="kdump", arch="x86_64", dry_run=True)
    assert not report.flattened
    assert (names(boto, bucket), uploads(boto, bucket)) == ([], [])


#: What is on its way when a run is killed: the first request that matches has its answer held back.
PHASES = {
    "before the first part": r"POST .*\?uploads",
    "while parts are sent": r"PUT .*partNumber=2",
    "while the first part is sent, which is the last": r"PUT .*partNumber=1\b",
    "before it is completed": r"POST .*uploadId=",
}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("phase", PHASES)
def test_a_run_that_is_killed_leaves_no_half_object(
    boto: Any, bucket: str, ram: str, local: Callable[[str], Path], proxy: Proxy, phase: str, how: signal.Signals
) -> None:
    command = [sys.executable, "-m", "pydump", "dump", ram, f"s3://{bucket}/x", "--arch", "x86_64", "--workers", "2"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    killed: list[str] = []

    def drop(line: str) -> bool:
        if killed or not re.match(PHASES[phase], line):
            return False
        killed.append(line)
        process.send_signal(how)
        return True

    # The request to complete is dropped before the store has it: it must not be completed by one that is killed.
    proxy.hold = drop
    try:
        _, said = process.communicate(timeout=90)
    finally:
        process.kill()
        process.wait()
    assert killed, "the phase came"
    assert said.count("\n") <= 1, said
    # Ctrl-C that comes once all memory has been read does not stop what little is left to do.
    whole = process.returncode == 0 and how != signal.SIGKILL
    assert names(boto, bucket) == ["x"] * whole
    if whole:
        assert content(boto, bucket, "x") == local("kdump").read_bytes()
    if how == signal.SIGKILL:
        left = S3Storage.leftovers(f"s3://{bucket}")
        begun = phase != "before the first part"
        assert [one.url for one in left] == [f"s3://{bucket}/x"] * begun
        for one in left:
            one.remove()
    assert uploads(boto, bucket) == []


def test_storage_clean_lists_and_removes_what_is_left(boto: Any, bucket: str, keys: None) -> None:
    begun = boto.create_multipart_upload(Bucket=bucket, Key="a/vmcore")["UploadId"]
    boto.upload_part(Bucket=bucket, Key="a/vmcore", UploadId=begun, PartNumber=3, Body=bytes(5 * MIB))
    boto.create_multipart_upload(Bucket=bucket, Key="b/vmcore")
    command = [sys.executable, "-m", "pydump", "storage", "clean"]

    def clean(*words: str) -> str:
        return subprocess.run([*command, *words], capture_output=True, text=True, timeout=60, check=True).stdout

    listed = clean(f"s3://{bucket}").splitlines()
    assert [line.split()[0] for line in listed] == [f"s3://{bucket}/a/vmcore", f"s3://{bucket}/b/vmcore"]
    assert listed[0].endswith("5.0 MiB")
    assert sorted(uploads(boto, bucket)) == ["a/vmcore", "b/vmcore"]
    clean(f"s3://{bucket}/a", "--remove")
    assert uploads(boto, bucket) == ["b/vmcore"]
    assert json.loads(clean(f"s3://{bucket}", "--remove", "--json"))["leftovers"][0]["removed"] is True
    assert clean(f"s3://{bucket}") == ""


def test_workers_and_uploads_take_little_memory(bucket: str, tmp_path: Path, keys: None) -> None:
    """Four parts on their way, one for each stream of extents, and the first: of 5 MiB here, the least of S3."""
    noise = np.random.default_rng(1).integers(0, 256, 16 * MIB, np.uint8).tobytes()
    peaks = []
    for n in (4, 8):
        with (tmp_path / "ram").open("wb") as file:
            for i in range(n):
                file.write(noise[i:] + noise[:i])
        code = (
            "import pydump; from pydump_storage_fsspec import parts; parts.SMALLEST = 5 << 20;"
            f"pydump.dump('raw:{tmp_path}/ram@0', 's3://{bucket}/x', format='kdump', "
            "arch='x86_64', workers=1, force=True, compression='none');"
            # Not getrusage: what that says includes the process that started this one.
            "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM:')))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
        peaks.append(int(done.stdout) << 10)
    assert max(peaks) < 250 * MIB
    assert peaks[1] < peaks[0] + 32 * MIB, "and no more for a larger dump"


@pytest.mark.parametrize("format", ["kdump", "elf"])
def test_little_is_fetched_to_open_a_dump(
    boto: Any, bucket: str, proxy: Proxy, local: Callable[[str], Path], format: str
) -> None:
    boto.upload_file(str(local(format)), bucket, "vmcore")
    with pydump.open(f"s3://{bucket}/vmcore"):
        assert proxy.down < 100 << 10


def test_little_is_fetched_to_read_a_page(
    boto: Any, bucket: str, proxy: Proxy, local: Callable[[str], Path], ram: str
) -> None:
    """Of an ELF file, which says in its headers where each page is."""
    boto.upload_file(str(local("elf")), bucket, "vmcore")
    with pydump.open(f"s3://{bucket}/vmcore") as dump:
        before = proxy.down
        wanted = Path(ram[4:-2]).read_bytes()[20 * MIB :][:4096]
        assert dump.read(20 * MIB, 4096) == wanted
        assert proxy.down - before < 100 << 10
        before = proxy.down
        assert dump.read(20 * MIB, 4096) == wanted
        assert proxy.down == before, "what is near is kept"


def test_little_is_fetched_of_a_dump_of_1_tib(boto: Any, bucket: str, proxy: Proxy, tmp_path: Path) -> None:
    """An ELF file of a guest with 1 TiB of RAM, of which the zeros were left out."""
    with (tmp_path / "ram").open("wb") as file:
        file.truncate(1 << 40)
    pydump.dump(
        f"raw:{tmp_path}/ram[0:]@0", f"s3://{bucket}/elf", format="elf", arch="x86_64", exclude=["zero"], force=True
    )
    proxy.down = 0
    began = time.monotonic()
    with pydump.open(f"s3://{bucket}/elf") as dump:
        assert dump.guest.memory.size == 1 << 40
    assert proxy.down < MIB
    assert time.monotonic() - began < 5, "it takes a tenth of a second on a machine that does nothing else"


def test_each_object_of_a_bucket_is_a_job(boto: Any, bucket: str, keys: None, tmp_path: Path) -> None:
    (tmp_path / "ram").write_bytes(guests.text_page(1) * 16)
    pydump.dump(f"raw:{tmp_path}/ram@0", tmp_path / "a", format="lime", arch="x86_64", workers=1)
    boto.upload_file(str(tmp_path / "a"), bucket, "in/a.lime")
    boto.put_object(Bucket=bucket, Key="in/bad.lime", Body=b"this is text")
    boto.put_object(Bucket=bucket, Key="in/other.txt", Body=b"this is text")
    pattern, to = f"s3://{bucket}/in/*.lime", f"s3://{bucket}/out/{{name}}.kdump"
    options = ["--arch", "x86_64"]
    command = [sys.executable, "-m", "pydump", "batch", "--executor", "local:1", "--each", pattern, "--to", to, "dump"]
    done = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 3, done.stderr
    assert done.stdout.splitlines() == ["     1  complete", "     1  failed"]
    assert f"s3://{bucket}/in/bad.lime" in done.stderr
    with pydump.open(f"s3://{bucket}/out/a.kdump") as dump:
        assert dump.read(4096, 4096) == guests.text_page(1)

    good, bad = batch.each(batch.matching(pattern), to, "dump", options)
    journal = batch.Journal(tmp_path / "pydump-batch.done", [good, bad], resume=True)
    assert (journal.complete(good), journal.complete(bad)) == (True, False)
    boto.put_object(Bucket=bucket, Key="out/a.kdump", Body=b"changed")
    assert not journal.complete(good)
    journal.close()


def test_little_is_fetched_of_a_filtered_kdump_of_1_tib(boto: Any, bucket: str, proxy: Proxy) -> None:
    """Its bitmaps have 64 MiB, and the number of a page's descriptor is the number of bits before its own."""
    pydump.dump(large_guest.Filtered(), f"s3://{bucket}/kdump", arch="x86_64", no_vmcoreinfo=True, workers=1)
    assert boto.head_object(Bucket=bucket, Key="kdump")["ContentLength"] > 64 * MIB
    with pydump.open(f"s3://{bucket}/kdump"):  # and what opens it is loaded
        proxy.down = 0
    began = time.monotonic()
    with pydump.open(f"s3://{bucket}/kdump") as dump:
        facts = info_json(dump, "kdump", None, notes=True)
        assert time.monotonic() - began < 10, "it takes a tenth of a second on a machine that does nothing else"
        assert proxy.down < MIB
        assert facts["excluded_size"] == (1 << 40) - 1024 * 4096
        assert facts["unreadable_size"] == 0
    proxy.down = 0
    with pydump.open(f"s3://{bucket}/kdump") as dump:
        paddr = large_guest.KEPT
        assert dump.read(paddr, 8) == paddr.to_bytes(8, "little")
        assert proxy.down < 256 << 10
        with pytest.raises(ReadError, match="was excluded from the dump"):
            dump.read(paddr - 4096, 8)


def test_importing_the_plugin_loads_nothing_of_fsspec() -> None:
    code = "import sys, pydump_storage_fsspec; print([m for m in sys.modules if m.startswith(('fsspec', 's3fs'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


def test_the_grid_of_parts_holds_the_largest_object() -> None:
    """Source: Amazon S3 User Guide, "Multipart upload limits": 10,000 parts, 5 MiB to 5 GiB, 5 TiB in all."""
    at, sizes = 0, []
    for number in range(1, parts.MOST + 1):
        assert parts.place_of(at)[:2] == (number, at)
        sizes.append(parts.place_of(at)[2])
        at += sizes[-1]
        assert parts.place_of(at - 1)[0] == number
    assert min(sizes) >= 5 * MIB
    assert max(sizes) <= 5 << 30
    assert at >= 5_000_000_000_000
