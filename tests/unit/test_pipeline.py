"""From an image to a sink through the dummy plugins: any executor writes the same bytes, a failure leaves nothing."""

from __future__ import annotations

import gzip
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pydump import builtin
from pydump.builtin import workers as workers_module
from pydump.builtin.local import LocalExecutor
from pydump.builtin.raw import BytesImage
from pydump.engine.facts import complete
from pydump.engine.open import open_source
from pydump.engine.run import run_dump
from pydump.errors import FormatError, PlanError, PluginError, PydumpError, ReadError, SinkError
from pydump.interfaces.backing import Backing
from pydump.interfaces.sink import Extent, Hole, Sink
from pydump.interfaces.writer import Batch, Encoded, Encoder, Placer
from pydump.model.guest import Cpu, Guest
from pydump.model.memory import MemoryMap
from pydump.model.request import Request
from pydump.options import option
from pydump.registry import Registry, registry_of
from pydump.testing import guests
from pydump.testing.dummy import (
    HEADER_SIZE,
    DummyArch,
    DummyCompressor,
    DummyEncoder,
    DummyFormat,
    DummyWriter,
    MemoryStorage,
)
from pydump.testing.pipes import slow_reader

REQUEST = Request(format="dummy", compression="dummy", arch="dummy")
CPUS = [Cpu(0, {"pc": 0x1000, "sp": 0x2000}), Cpu(1, {"pc": 3})]


def guest_source(n_pages: int = 3000) -> BytesImage:
    low, high = guests.memory(n_pages), guests.memory(70, seed=9)
    guest = Guest(MemoryMap(), byte_order="little", notes=DummyArch.cpu_notes(CPUS, "little"))
    return BytesImage(guest, {0x1000: bytes(low), 1 << 32: bytes(high)})


def written(registry: Registry, path: Path, *, workers: int, batch_size: int = 256 << 10, **output: Any) -> bytes:
    report = run_dump(
        guest_source(),
        "test",
        str(path),
        replace(REQUEST, **output),
        registry,
        executor=LocalExecutor(workers),
        batch_size=batch_size,
    )
    assert report.workers == workers
    return path.read_bytes()


def test_any_number_of_workers_writes_the_same_bytes(registry: Registry, tmp_path: Path) -> None:
    reference = written(registry, tmp_path / "1", workers=1)
    for workers in (2, 5, 16):
        assert written(registry, tmp_path / str(workers), workers=workers) == reference
    flat = written(registry, tmp_path / "flat1", workers=1, flatten=True)
    assert written(registry, tmp_path / "flat3", workers=3, flatten=True) == flat != reference


def test_there_are_no_more_workers_than_batches(registry: Registry, tmp_path: Path) -> None:
    report = run_dump(guest_source(), "t", str(tmp_path / "o"), REQUEST, registry, executor=LocalExecutor(16))
    assert report.workers == 3  # 3070 pages in batches of 4 MiB


class GrowingCompressor(DummyCompressor):
    """Makes every page seven times as long."""

    def compress(self, data: bytes | bytearray | memoryview) -> bytes:
        return bytes(data) * 7


@pytest.mark.parametrize("flatten", [False, True], ids=["pipe", "flattened"])
def test_a_payload_may_be_larger_than_its_batch(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flatten: bool
) -> None:
    """Down a pipe whose reader is slower than the workers, which run until they have no room left."""
    monkeypatch.setitem(registry._classes["compressor"], "dummy", GrowingCompressor)
    digests = set()
    for workers in (1, 2, 4):
        with slow_reader(tmp_path / "out") as fd:
            request = replace(REQUEST, flatten=flatten)
            run_dump(guest_source(), "t", f"fd:{fd}", request, registry, executor=LocalExecutor(workers))
        digests.add(hashlib.sha256((tmp_path / "out").read_bytes()).digest())
    assert len(digests) == 1


class WideEncoder(DummyEncoder):
    """Payloads whose items are not bytes."""

    def encode(self, batch: Batch) -> Encoded[None]:
        encoded = super().encode(batch)
        return replace(encoded, payload_size=-(-encoded.payload_size // 8) * 8)

    def extents(self, encoded: Encoded[None], start: int, answer: None = None) -> Iterator[Extent | Hole]:
        payload = bytes(encoded.payload or b"")
        yield Extent(start, memoryview(payload.ljust(-(-len(payload) // 8) * 8, b"\0")).cast("Q"))


class WideWriter(DummyWriter):
    def encoder(self) -> Encoder[Any]:
        return WideEncoder(self._compressor)


def test_items_of_an_extent_may_be_wider_than_a_byte(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DummyFormat, "writer", classmethod(lambda cls, plan, compressor: WideWriter(plan, compressor)))
    for flatten in (False, True):
        one, two = (
            written(registry, tmp_path / f"{workers}{flatten}", workers=workers, flatten=flatten) for workers in (1, 2)
        )
        assert one == two


class PlainEncoder(Encoder[None]):
    """Bytes at fixed places, straight from the batch: nothing waits for the batches before."""

    def encode(self, batch: Batch) -> Encoded[None]:
        return Encoded(batch.position, 0, batch.data, None, batch.size, 0)

    def extents(self, encoded: Encoded[None], start: int, answer: None = None) -> Iterator[Extent | Hole]:
        at = HEADER_SIZE + encoded.position
        yield Hole(at, encoded.size) if encoded.payload is None else Extent(at, encoded.payload)


class PlainWriter(DummyWriter):
    def encoder(self) -> Encoder[Any]:
        return PlainEncoder()

    def size(self, end: int) -> int:
        return self.start + self.stored.size


def test_a_batch_is_written_before_its_buffer_is_used_again(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Holes, which are done at once, between batches of data, whose bytes are written from where they were read to."""
    monkeypatch.setattr(DummyFormat, "writer", classmethod(lambda cls, plan, compressor: PlainWriter(plan, compressor)))
    ram = tmp_path / "ram"
    with ram.open("wb") as file:
        for i in range(12):
            file.seek(i * (3 << 20))
            file.write(guests.random_page(i, 1 << 20))
        file.truncate(36 << 20)
    for workers in (1, 2, 5, 5, 5):
        with open_source(f"raw:{ram}@0", registry) as source:
            out = tmp_path / "out"
            run_dump(
                source,
                "t",
                str(out),
                replace(REQUEST, force=True),
                registry,
                executor=LocalExecutor(workers),
                batch_size=64 << 10,
            )
        assert out.read_bytes()[4096:] == ram.read_bytes()


@dataclass(frozen=True)
class NumberedEncoder(DummyEncoder):
    """Frames that begin with what the placer says: the number of the batch, and the sizes of all payloads before."""

    def encode(self, batch: Batch) -> Encoded[None]:
        encoded = super().encode(batch)
        return replace(encoded, payload_size=0, summary=encoded.payload_size)

    def extents(self, encoded: Encoded[None], start: int, answer: Any = None) -> Iterator[Extent | Hole]:
        assert encoded.payload is not None
        yield Extent(start, answer + bytes(encoded.payload))


class NumberingPlacer(Placer[int, bytes]):
    """Keeps what it knows in plain attributes of its own."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def place(self, summary: int, start: int) -> tuple[int, bytes]:
        answer = f"{len(self.sizes)} {self.sizes}".encode()
        self.sizes.append(summary)
        return len(answer) + summary, answer


class NumberedWriter(DummyWriter):
    def encoder(self) -> Encoder[Any]:
        return NumberedEncoder(self._compressor)

    def placer(self) -> NumberingPlacer:
        return NumberingPlacer()


def test_a_placer_may_keep_what_it_likes(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DummyFormat, "writer", classmethod(lambda cls, plan, codec: NumberedWriter(plan, codec)))
    for flatten in (False, True):
        one = written(registry, tmp_path / f"1{flatten}", workers=1, flatten=flatten, batch_size=64 << 10)
        assert b"47 [" in one
        for workers in (2, 5):
            path = tmp_path / f"{workers}{flatten}"
            assert written(registry, path, workers=workers, flatten=flatten, batch_size=64 << 10) == one


def test_what_was_written_reads_back(registry: Registry, tmp_path: Path) -> None:
    source = guest_source()
    for name, flatten in (("plain", False), ("flat", True)):
        path = tmp_path / name
        report = run_dump(
            source, "test", str(path), replace(REQUEST, flatten=flatten), registry, executor=LocalExecutor(2)
        )
        assert report.output_size == path.stat().st_size or flatten
        assert report.complete
        assert report.flattened == flatten
        with open_source(str(path), registry) as back:
            assert back.guest().memory == source.guest().memory
            assert DummyArch.cpus(back.guest().notes, "little")[0].registers == CPUS[0].registers
            for block in source.guest().memory:
                got, want = bytearray(block.size), bytearray(block.size)
                back.read_into(block.paddr, memoryview(got))
                source.read_into(block.paddr, memoryview(want))
                assert got == want


def test_a_window_is_cut_exactly(registry: Registry, tmp_path: Path) -> None:
    request = replace(REQUEST, begin=0x1801, length=0x3003)
    run_dump(guest_source(), "test", str(tmp_path / "w"), request, registry)
    with open_source(str(tmp_path / "w"), registry) as back:
        (block,) = back.guest().memory
        assert (block.paddr, block.size) == (0x1801, 0x3003)


class FailingCompressor(DummyCompressor):
    def compress(self, data: bytes | bytearray | memoryview) -> bytes:
        if bytes(data[:8]).startswith(b"page"):
            raise ZeroDivisionError("division by zero")
        return super().compress(data)


class DyingCompressor(DummyCompressor):
    def compress(self, data: bytes | bytearray | memoryview) -> bytes:
        os.kill(os.getpid(), 9)
        return b""


@dataclass(frozen=True, slots=True)
class BucketOptions:
    region: str = option("here", help="where it is")


class BucketStorage(MemoryStorage):
    """Says what it was opened with."""

    name = "bucket"
    Options = BucketOptions
    opened: ClassVar[list[Any]] = []

    @classmethod
    def reader(cls, url: str, options: Any = None) -> Backing:
        cls.opened[:] = [url, options]
        return super().reader(url)

    @classmethod
    def writer(cls, url: str, options: Any = None, *, force: bool = False, sync: bool = True) -> Sink:
        cls.opened[:] = [url, options, force, sync]
        return super().writer(url, force=force)


@pytest.fixture
def bucket(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setitem(registry._classes["storage"], "bucket", BucketStorage)
    monkeypatch.setattr(MemoryStorage, "kept", {})
    return registry


def test_a_storage_gets_its_options(bucket: Registry, tmp_path: Path) -> None:
    request = replace(REQUEST, options={"bucket": {"region": "there"}})
    run_dump(guest_source(70), "t", "bucket:name", replace(request, sync=False), bucket)
    assert BucketStorage.opened == ["bucket:name", BucketOptions("there"), False, False]
    run_dump(guest_source(70), "t", "bucket:name", replace(REQUEST, force=True, dry_run=True), bucket)
    assert BucketStorage.opened == ["bucket:name", BucketOptions(), True, True]
    with pytest.raises(PlanError, match="^--bucket-region is of storage bucket, and the output is "):
        run_dump(guest_source(70), "t", str(tmp_path / "file"), request, bucket)
    with open_source("bucket:name", bucket, {"bucket": {"region": "back"}}):
        assert BucketStorage.opened == ["bucket:name", BucketOptions("back")]


def test_a_dump_in_a_storage_is_read_as_a_file_is(bucket: Registry, tmp_path: Path) -> None:
    run_dump(guest_source(70), "t", "bucket://a/b", REQUEST, bucket)
    (tmp_path / "file").write_bytes(MemoryStorage.kept["bucket://a/b"])
    MemoryStorage.kept["bucket:packed"] = gzip.compress(MemoryStorage.kept["bucket://a/b"])
    with open_source(str(tmp_path / "file"), bucket) as file:
        for name in ("bucket://a/b", "bucket:packed"):
            with open_source(name, bucket) as back:
                assert back.guest() == file.guest()
                start, end = next(iter(back.guest().memory.ranges()))
                here, there = bytearray(end - start), bytearray(end - start)
                back.read_into(start, memoryview(here))
                file.read_into(start, memoryview(there))
                assert here == there
    MemoryStorage.kept["bucket:bad"] = b"text"
    with pytest.raises(FormatError, match="^bucket:bad: no installed format reads it"):
        open_source("bucket:bad", bucket)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_plugin_that_fails_fails_the_dump_and_is_named(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setitem(registry._classes["compressor"], "dummy", FailingCompressor)
    source = BytesImage(Guest(MemoryMap(), byte_order="little"), {0x40000000: guests.text_page(1) * 4096})
    with pytest.raises(PluginError, match=r"ZeroDivisionError.*at paddr 0x4[0-9a-f]+"):
        run_dump(source, "test", str(tmp_path / "out"), REQUEST, registry, executor=LocalExecutor(workers))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flatten", [False, True])
def test_a_worker_that_dies_fails_the_dump(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flatten: bool
) -> None:
    monkeypatch.setitem(registry._classes["compressor"], "dummy", DyingCompressor)
    with pytest.raises(PydumpError, match="SIGKILL"):
        run_dump(
            guest_source(),
            "test",
            str(tmp_path / "out"),
            replace(REQUEST, flatten=flatten),
            registry,
            executor=LocalExecutor(2),
        )
    assert list(tmp_path.iterdir()) == []


class StoppedCompressor(DummyCompressor):
    def compress(self, data: bytes | bytearray | memoryview) -> bytes:
        os.kill(os.getpid(), signal.SIGSTOP)
        return super().compress(data)


def test_a_worker_that_is_stopped_is_named(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "LOOK", 0.05)
    monkeypatch.setattr(workers_module, "LOOKS", 3)
    monkeypatch.setitem(registry._classes["compressor"], "dummy", StoppedCompressor)
    with pytest.raises(PydumpError, match=r"^worker process \d+ was stopped by SIGSTOP and did not continue"):
        run_dump(guest_source(), "test", str(tmp_path / "out"), REQUEST, registry, executor=LocalExecutor(2))
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_is_stopped_and_continued_goes_on(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_module, "LOOK", 0.05)
    reference = written(registry, tmp_path / "1", workers=1, batch_size=4 << 20)
    monkeypatch.setitem(registry._classes["compressor"], "dummy", StoppedCompressor)
    stopped: list[int] = []

    def wake(worker: workers_module.Worker) -> None:
        notice(worker)
        if worker.stopped:
            stopped.append(worker.process.pid)
            os.kill(worker.process.pid, signal.SIGCONT)

    notice = workers_module._notice_stop
    monkeypatch.setattr(workers_module, "_notice_stop", wake)
    assert written(registry, tmp_path / "2", workers=2, batch_size=4 << 20) == reference
    assert stopped


class UnreadableSource(BytesImage):
    def read_into(self, paddr: int, buffer: memoryview) -> None:
        if paddr >= 1 << 32:
            raise ReadError(paddr, len(buffer), "the disk is on fire", hint="leave the building")
        super().read_into(paddr, buffer)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_read_error_reaches_the_caller_with_its_facts(registry: Registry, tmp_path: Path, workers: int) -> None:
    good = guest_source()
    source = UnreadableSource(good.guest(), good._contents)
    with pytest.raises(ReadError, match="on fire") as caught:
        run_dump(source, "test", str(tmp_path / "out"), REQUEST, registry, executor=LocalExecutor(workers))
    assert caught.value.paddr == 1 << 32
    assert caught.value.hint == "leave the building"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [MemoryError(), ValueError("what\nis this")])
def test_whatever_a_worker_meets_is_one_error(
    registry: Registry, tmp_path: Path, error: Exception, capfd: pytest.CaptureFixture[str]
) -> None:
    class Broken(BytesImage):
        def read_into(self, paddr: int, buffer: memoryview) -> None:
            raise error

    good = guest_source()
    source = Broken(good.guest(), good._contents)
    says = "^out of memory$" if isinstance(error, MemoryError) else "^internal error: ValueError: what"
    request = replace(REQUEST, no_vmcoreinfo=True)
    with pytest.raises(PydumpError, match=says):
        run_dump(source, "test", str(tmp_path / "out"), request, registry, executor=LocalExecutor(2))
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("workers", [1, 2])
def test_memory_that_runs_short_is_no_fault_of_a_plugin(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    class Hungry(DummyCompressor):
        def compress(self, data: bytes | bytearray | memoryview) -> bytes:
            raise MemoryError

    monkeypatch.setitem(registry._classes["compressor"], "dummy", Hungry)
    with pytest.raises((MemoryError, PydumpError)) as caught:
        run_dump(guest_source(), "test", str(tmp_path / "out"), REQUEST, registry, executor=LocalExecutor(workers))
    assert not isinstance(caught.value, PluginError)


def test_progress_ends_at_the_total(registry: Registry, tmp_path: Path) -> None:
    seen = []
    run_dump(
        guest_source(),
        "t",
        str(tmp_path / "o"),
        REQUEST,
        registry,
        executor=LocalExecutor(2),
        progress=lambda p: seen.append(p),
    )
    assert seen[-1].done == seen[-1].total == guest_source().guest().memory.size
    assert [p.done for p in seen] == sorted(p.done for p in seen)


def test_without_any_architecture_it_is_said_what_to_install() -> None:
    with pytest.raises(
        PlanError, match="install the architecture's plugin, such as pydump-arch-x86-64, and name it with --arch$"
    ):
        complete(Guest(MemoryMap()), None, registry_of([("core", builtin)]))


def test_dry_run_writes_nothing(registry: Registry, tmp_path: Path) -> None:
    report = run_dump(guest_source(), "t", str(tmp_path / "o"), replace(REQUEST, dry_run=True), registry)
    assert report.dry_run
    assert report.output_size > 0
    assert list(tmp_path.iterdir()) == []


def test_holes_of_a_sparse_file_are_never_read(registry: Registry, tmp_path: Path) -> None:
    path = tmp_path / "ram"
    with path.open("wb") as file:
        file.truncate(256 << 20)
        file.seek(128 << 20)
        file.write(guests.text_page(7) * 16)
    reads = []
    with open_source(f"raw:{path}@0", registry) as source:
        real = source.read_into

        def counted(paddr: int, buffer: memoryview) -> None:
            reads.append(len(buffer))
            real(paddr, buffer)

        source.read_into = counted  # type: ignore[method-assign]
        run_dump(source, "t", str(tmp_path / "o"), REQUEST, registry, executor=LocalExecutor(1))
    assert 0 < sum(reads) < 8 << 20


def is_alive(pid: int) -> bool:
    """Is it there, and not just waiting for its new parent to take notice?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_no_process_outlives_its_parent(tmp_path: Path) -> None:
    """SIGKILL of the parent while workers encode: they are gone as well, and nothing is at the target."""
    script = f"""
import os, sys, time
from pydump import builtin
from pydump.registry import registry_of
from pydump.testing import dummy
from pydump.builtin.local import LocalExecutor
from pydump.engine.run import run_dump
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_pipeline import REQUEST, guest_source
class Slow(dummy.DummyCompressor):
    def compress(self, data):
        os.write(1, b"%d\\n" % os.getpid()); time.sleep(60); return b""
registry = registry_of([("core", builtin), ("dummy", dummy)])
registry._classes["compressor"]["dummy"] = Slow
run_dump(guest_source(), "t", {str(tmp_path / "out")!r}, REQUEST, registry, executor=LocalExecutor(2))
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        workers = [int(parent.stdout.readline()) for _ in range(2)]
        parent.kill()
        parent.wait(10)
        parent.stdout.read()  # until the last worker has closed it
    deadline = time.monotonic() + 10
    while any(is_alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not [pid for pid in workers if is_alive(pid)]
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_error_and_leaves_nothing(registry: Registry, tmp_path: Path) -> None:
    """A file-size limit stands in for a full disk where no small file system can be mounted."""
    import resource

    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, old[1]))
    try:
        for workers in (1, 2):
            with pytest.raises(SinkError, match="nothing was left there"):
                run_dump(guest_source(), "t", str(tmp_path / "o"), REQUEST, registry, executor=LocalExecutor(workers))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("workers", [1, 3])
def test_all_workers_together_read_no_faster_than_they_may(registry: Registry, tmp_path: Path, workers: int) -> None:
    source = guest_source()
    size = source.guest().memory.size
    began = time.monotonic()
    request = replace(REQUEST, max_rate=3 * size)
    run_dump(source, "guest", str(tmp_path / "out"), request, registry, executor=LocalExecutor(workers))
    assert time.monotonic() - began >= 1 / 3


@pytest.mark.parametrize("rate", [0, -1])
def test_a_rate_that_never_ends_is_refused(registry: Registry, tmp_path: Path, rate: int) -> None:
    with pytest.raises(PlanError, match="--max-rate must be at least 1"):
        run_dump(guest_source(), "guest", str(tmp_path / "out"), replace(REQUEST, max_rate=rate), registry)
    assert not (tmp_path / "out").exists()
