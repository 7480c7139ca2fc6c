"""A dump by a cluster to an S3 server: workers send the parts, and the object is that of a local run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dask_processes import Processes
from pydump.engine.executors import open_executor
from pydump.engine.open import open_source
from pydump.engine.run import run_dump
from pydump.errors import PydumpError, SinkError
from pydump.interfaces.sink import SharedParts
from pydump.model.request import Request
from pydump.registry import installed
from pydump.testing import guests
from pydump_executor_dask import cluster as cluster_module
from pydump_executor_dask import writing
from pydump_storage_fsspec import parts
from pydump_storage_fsspec.s3 import S3Sink
from s3_proxy import Proxy
from s3_store import content, uploads

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

MIB = 1 << 20
#: Bytes of a part here, the least that S3 takes.
PART = 5 * MIB


@pytest.fixture(scope="module")
def cluster(keys: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Workers that know the server's address. The driver knows that of a proxy, which counts what it sends."""
    preload = f"import pydump_storage_fsspec.parts as parts; parts.SMALLEST = {PART}"
    processes = Processes(tmp_path_factory.mktemp("cluster"), preload)
    try:
        processes.grow(2)
        yield processes
    finally:
        processes.end()


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts are small, and runs of batches smaller."""
    monkeypatch.setattr(parts, "SMALLEST", PART)
    for module, name in ((writing, "RUN_SIZE"), (writing, "LARGEST_RUN"), (cluster_module, "RUN_SIZE")):
        monkeypatch.setattr(module, name, 4 * MIB)


@pytest.fixture(scope="module")
def ram(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 MiB: what does not shrink, what does, and zeros."""
    path = tmp_path_factory.mktemp("ram") / "ram"
    noise = np.random.default_rng(3).integers(0, 256, 28 * MIB, np.uint8).tobytes()
    path.write_bytes(noise + bytes(guests.memory(1280)) + bytes(7 * MIB))
    return path


def dump(ram: Path, output: str, address: str | None, **options: Any) -> Any:
    """A dump by the cluster, or by this process, in batches of 2 MiB."""
    registry = installed()
    source = f"raw:{ram}@0"
    progress = options.pop("progress", None)
    request = Request(arch="x86_64", no_vmcoreinfo=True, sync=False, **options)
    executor = f"dask:{address}" if address else "local:1"
    with open_source(source, registry) as opened, open_executor(executor, None, registry) as running:
        return run_dump(
            opened, source, output, request, registry, executor=running, batch_size=2 << 20, progress=progress
        )


@pytest.mark.parametrize(("format", "compression"), [("kdump", "zlib"), ("elf", None), ("lime", None)])
def test_workers_send_the_parts(
    boto: Any,
    bucket: str,
    proxy: Proxy,
    cluster: Processes,
    ram: Path,
    tmp_path: Path,
    format: str,
    compression: str | None,
) -> None:
    """The driver sends the first part and the last."""
    dump(ram, f"s3://{bucket}/x", cluster.address, format=format, compression=compression)
    sent = proxy.up
    dump(ram, str(tmp_path / "own"), None, format=format, compression=compression)
    own = (tmp_path / "own").read_bytes()
    assert content(boto, bucket, "x") == own
    assert len(own) > 28 * MIB
    assert sent < 2 * PART + MIB
    assert uploads(boto, bucket) == []


def test_a_store_that_fails_in_a_worker_is_an_error_in_one_line(
    boto: Any,
    bucket: str,
    proxy: Proxy,
    cluster: Processes,
    ram: Path,
) -> None:
    """Somebody removes the bucket meanwhile."""

    removed: list[int] = []

    def remove(progress: Any) -> None:
        if progress.done and not removed:
            removed.append(progress.done)
            boto.delete_bucket(Bucket=bucket)

    with pytest.raises(SinkError, match=r"^cannot write s3://.*/x: The specified bucket does not exist") as caught:
        dump(ram, f"s3://{bucket}/x", cluster.address, format="elf", progress=remove)
    assert "\n" not in str(caught.value)


def test_a_dump_of_one_process_is_resumed_by_a_cluster(
    boto: Any,
    bucket: str,
    proxy: Proxy,
    cluster: Processes,
    ram: Path,
    tmp_path: Path,
) -> None:
    def fail(progress: Any) -> None:
        if progress.phase == "dump" and progress.done > 24 * MIB:
            raise PydumpError("killed")

    url = f"s3://{bucket}/x"
    for address in (None, cluster.address):
        with pytest.raises(PydumpError, match="^killed$"):
            dump(ram, url, address, resume=True, compression="none", progress=fail)
    report = dump(ram, url, cluster.address, resume=True, compression="none")
    dump(ram, str(tmp_path / "own"), None, compression="none")
    assert content(boto, bucket, "x") == (tmp_path / "own").read_bytes()
    assert report.resumed_size >= 3 * PART


def test_where_workers_do_not_reach_the_store_the_driver_sends_all(
    boto: Any,
    bucket: str,
    proxy: Proxy,
    cluster: Processes,
    ram: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = S3Sink.share

    def elsewhere(sink: S3Sink) -> SharedParts:
        share: Any = real(sink)
        return replace(share, upload=replace(share.upload, id="of another store"))

    monkeypatch.setattr(S3Sink, "share", elsewhere)
    dump(ram, f"s3://{bucket}/x", cluster.address, format="elf")
    assert proxy.up > 40 * MIB
    dump(ram, str(tmp_path / "own"), None, format="elf")
    assert content(boto, bucket, "x") == (tmp_path / "own").read_bytes()


def test_a_worker_that_is_killed_does_not_matter(
    boto: Any,
    bucket: str,
    proxy: Proxy,
    cluster: Processes,
    ram: Path,
    tmp_path: Path,
) -> None:
    """The last test: it ends a worker of all the others. What it had encoded, and pieces it kept, are made again."""
    killed: list[int] = []

    def kill(progress: Any) -> None:
        if progress.phase == "dump" and progress.done and not killed:
            killed.append(cluster.workers[0].pid)
            cluster.workers[0].kill()

    dump(ram, f"s3://{bucket}/x", cluster.address, compression="zlib", progress=kill)
    dump(ram, str(tmp_path / "own"), None, compression="zlib")
    assert killed
    assert content(boto, bucket, "x") == (tmp_path / "own").read_bytes()
    assert uploads(boto, bucket) == []
