"""Dumps and scans by workers in processes of their own, over TCP on this machine."""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import pydump
import simulated_dump
from dask_processes import Processes
from pydump.builtin.local import LocalExecutor
from pydump.builtin.sinks import FileSink, SharedFile
from pydump.engine.open import open_source
from pydump.engine.run import run_dump
from pydump.errors import PlanError, PydumpError, SinkError
from pydump.interfaces.executor import Executor
from pydump.model.request import Request
from pydump.registry import installed
from pydump.testing import guests
from pydump.testing.executor import ExecutorTests
from pydump_executor_dask import DaskExecutor, writing
from pydump_executor_dask import cluster as cluster_module
from pydump_executor_dask.worker import work

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
#: Format and compression.
KINDS = [
    ("elf", None), ("lime", None), ("kdump", "none"), ("kdump", "zlib"), ("kdump", "zstd"), ("kdump", "snappy"),
    ("kdump", "lzo"), ("avml", None),
]  # fmt: skip


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    processes = Processes(tmp_path_factory.mktemp("cluster"))
    try:
        yield processes
    finally:
        processes.end()


class TestCluster(ExecutorTests):
    executor = DaskExecutor

    @pytest.fixture(scope="class")
    @classmethod
    def opened(cls, cluster: Processes) -> Iterator[DaskExecutor]:  # type: ignore[override]
        cluster.grow(2)
        with DaskExecutor.open(cluster.address) as executor:
            yield executor


def ram(path: Path, mebibytes: int = 20) -> str:
    """Memory in which pages are zero, random, text, and the same as others far away."""
    part = bytes(guests.memory(1280))
    path.write_bytes((part * (mebibytes // 5 + 1))[: mebibytes << 20])
    return f"raw:{path}@0"


def dump(source: str, output: Path, **options: Any) -> bytes:
    pydump.dump(source, output, arch="x86_64", no_vmcoreinfo=True, force=True, sync=False, **options)
    return output.read_bytes()


@pytest.fixture
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run is what one worker does at a time: here as little as a batch."""
    monkeypatch.setattr(writing, "RUN_SIZE", 1)
    monkeypatch.setattr(writing, "LARGEST_RUN", 1)
    monkeypatch.setattr(cluster_module, "RUN_SIZE", 1)


def run(source: str, output: Path, executor: Executor, **options: Any) -> bytes:
    """A dump in small batches, by an executor that is open."""
    registry = installed()
    request = Request(arch="x86_64", no_vmcoreinfo=True, force=True, sync=False, **options)
    with open_source(source, registry) as opened:
        run_dump(opened, source, str(output), request, registry, executor=executor, batch_size=2 << 20)
    return output.read_bytes()


@pytest.mark.parametrize(("count", "kinds"), [(2, KINDS), (5, KINDS[4:5]), (1, KINDS[4:5])])
def test_the_same_bytes_however_many_workers(
    cluster: Processes, tmp_path: Path, short_runs: None, count: int, kinds: list[tuple[str, str | None]]
) -> None:
    source = ram(tmp_path / "ram", 8)
    with cluster.only(count), DaskExecutor.open(cluster.address) as executor:
        assert executor.workers_for(100) == count
        for format, compression in kinds:
            exclude = frozenset({"zero"} if compression == "zstd" or format == "elf" else ())
            options = {"format": format, "compression": compression, "exclude": exclude}
            own = run(source, tmp_path / "own", LocalExecutor(1), **options)
            assert run(source, tmp_path / "theirs", executor, **options) == own, options
    assert sorted(os.listdir(tmp_path)) == ["own", "ram", "theirs"]


def test_a_driver_places_each_of_many_batches() -> None:
    """The codec is replaced by a sleep. How many a second there are, tests/benchmarks/cluster.py measures."""
    count = 2000
    simulated_dump.run(32, count, 0.001)
    size = simulated_dump.PAYLOAD
    assert {number * size: number.to_bytes(size, "big") for number in range(count)} == simulated_dump.WRITTEN


def test_workers_write_the_file_themselves(
    cluster: Processes, tmp_path: Path, short_runs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or, where one does not reach it, this process does."""
    cluster.grow(2)
    source, written = ram(tmp_path / "ram", 8), []
    real = FileSink.write
    monkeypatch.setattr(FileSink, "write", lambda sink, extent: (written.append(extent.size), real(sink, extent))[1])
    with DaskExecutor.open(cluster.address) as executor:
        theirs = run(source, tmp_path / "theirs", executor, format="elf")
        assert sum(written) < 1 << 20
        assert len(theirs) > 4 << 20
        monkeypatch.setattr(FileSink, "share", lambda sink: SharedFile(sink.path, str(tmp_path / "elsewhere")))
        assert run(source, tmp_path / "theirs", executor, format="elf") == theirs
        assert sum(written) > 4 << 20


def test_a_worker_that_cannot_write_is_an_error(
    cluster: Processes, tmp_path: Path, short_runs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.grow(2)
    monkeypatch.setattr(FileSink, "share", lambda sink: SharedFile(sink.path, "/dev/full"))
    said = r"^cannot write .*/theirs on .*: No space left on device; nothing was left there"
    with DaskExecutor.open(cluster.address) as executor, pytest.raises(SinkError, match=said):
        run(ram(tmp_path / "ram", 8), tmp_path / "theirs", executor, format="kdump")
    assert os.listdir(tmp_path) == ["ram"]


def test_scans_find_the_same(cluster: Processes, tmp_path: Path) -> None:
    cluster.grow(2)
    dump(ram(tmp_path / "ram"), tmp_path / "a", format="elf")
    data = bytearray((tmp_path / "ram").read_bytes())
    data[9 << 20] ^= 1
    (tmp_path / "other").write_bytes(data)
    dump(f"raw:{tmp_path / 'other'}@0", tmp_path / "b", format="kdump")
    found = []
    for options in ({"workers": 1}, {"executor": f"dask:{cluster.address}"}):
        compared = pydump.compare(tmp_path / "a", tmp_path / "b", **options)
        verified = pydump.verify(tmp_path / "b", hash_memory=True, **options)
        cells = pydump.survey(tmp_path / "a", **options).cells
        found.append((compared.differences, replace(verified, seconds=0), cells))
    assert found[0] == found[1]
    assert len(found[0][0]) == 1


def test_a_fault_in_a_worker_keeps_its_traceback() -> None:
    """A task that cannot be unpickled, as with a plugin that breaks when it opens the source again."""
    ((result, failed),) = work(b"", "token", [])
    error = pickle.loads(result)
    assert failed
    assert error.message.startswith("plugin executor-dask of pydump-executor-dask: EOFError: ")
    assert error.traceback.startswith("Traceback (most recent call last):\n")


def test_a_worker_that_is_killed_does_not_matter(cluster: Processes, tmp_path: Path, short_runs: None) -> None:
    cluster.grow(2)
    source = ram(tmp_path / "ram", 60)
    own = dump(source, tmp_path / "own", workers=1, compression="zlib")
    killed: list[int] = []

    def kill(progress: Any) -> None:
        if progress.phase == "dump" and progress.done and not killed:
            killed.append(cluster.workers[0].pid)
            cluster.workers[0].kill()

    options = {"executor": f"dask:{cluster.address}", "compression": "zlib", "progress": kill}
    assert dump(source, tmp_path / "theirs", **options) == own
    assert killed


def test_other_versions_are_refused_before_work_begins(
    cluster: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pydump_executor_dask import cluster as module

    cluster.grow(1)
    theirs = module.installed
    versions = {**theirs(), "pydump-core": "9.9"}
    calls: list[int] = []

    def installed() -> dict[str, str]:
        calls.append(1)
        return versions

    real = module.Client.run
    monkeypatch.setattr(module.Client, "run", lambda self, function, **options: real(self, theirs, **options))
    monkeypatch.setattr(module, "installed", installed)
    with pytest.raises(PlanError, match=r"^pydump-core is .* on the dask worker tcp://.*, and 9.9 here; install "):
        dump(ram(tmp_path / "ram", 5), tmp_path / "out", executor=f"dask:{cluster.address}")
    assert calls
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("tcp://127.0.0.1:1", "^no dask scheduler answers at tcp://127.0.0.1:1: "),
        ("somewhere", "^dask:somewhere is not a cluster"),
        ("local:x", "^dask:local:x: 'x' is not a number of workers"),
        ("local:0", "^dask:local:0: '0' is not a number of workers"),
    ],
)
def test_a_cluster_that_is_not_there(tmp_path: Path, argument: str, says: str) -> None:
    options = {"dask": {"patience": 1}}
    with pytest.raises(PydumpError, match=says):
        dump(ram(tmp_path / "ram", 5), tmp_path / "out", executor=f"dask:{argument}", options=options)
    assert not (tmp_path / "out").exists()


def test_what_a_killed_driver_leaves_is_listed_and_removed(cluster: Processes, tmp_path: Path) -> None:
    """The file has a name while workers write it. Those that still write do not make it again."""
    cluster.grow(2)
    source = ram(tmp_path / "ram", 60)
    command = [sys.executable, "-m", "pydump"]
    words = ["dump", source, str(tmp_path / "out"), "--arch", "x86_64", "--executor", f"dask:{cluster.address}"]
    words += ["--compression", "zlib", "--zlib-level", "9", "--no-dedup"]
    process = subprocess.Popen([*command, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while not any(tmp_path.glob(".pydump-*")):
            assert time.monotonic() < until
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait(30)
    (left,) = tmp_path.glob(".pydump-*")
    clean = [*command, "storage", "clean", str(tmp_path)]
    listed = subprocess.run(clean, capture_output=True, text=True, timeout=60, check=True).stdout
    assert str(left) in listed
    subprocess.run([*clean, "--remove"], capture_output=True, timeout=60, check=True)
    assert os.listdir(tmp_path) == ["ram"]
    theirs = dump(source, tmp_path / "theirs", executor=f"dask:{cluster.address}")
    assert theirs == dump(source, tmp_path / "own", workers=1)
    assert sorted(os.listdir(tmp_path)) == ["own", "ram", "theirs"]


def test_workers_of_its_own_end_with_it(tmp_path: Path) -> None:
    """From the command line, in a process of its own."""
    source = ram(tmp_path / "ram")
    command = [sys.executable, "-m", "pydump", "dump", source, str(tmp_path / "out"), "--arch", "x86_64", "--json"]
    done = subprocess.run([*command, "--executor", "dask:local:1"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["workers"] == 1
    assert (tmp_path / "out").read_bytes() == dump(source, tmp_path / "own", workers=1)
    left = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if str(tmp_path) in entry.read_text():
                left.append(entry)
    assert left == []


@pytest.mark.parametrize("moment", ["the first worker starts", "both workers start"])
def test_ctrl_c_while_own_workers_start_prints_one_line(moment: str, tmp_path: Path) -> None:
    """Ctrl-C goes to the process group of a terminal: to the workers as well, of which each would print a traceback."""
    source = ram(tmp_path / "ram")
    command = [sys.executable, "-m", "pydump", "dump", source, str(tmp_path / "out"), "--arch", "x86_64"]
    command += ["--executor", "dask:local:2", "--progress", "none"]
    n = 1 if "first" in moment else 2
    with subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True) as run:
        end = time.monotonic() + 60
        while len(workers := spawned(run.pid)) < n:
            assert run.poll() is None and time.monotonic() < end
            time.sleep(0.005)
        os.killpg(run.pid, signal.SIGINT)
        _, said = run.communicate(timeout=60)
    assert (run.returncode, said) == (130, "pydump: error: interrupted; nothing was left at the output\n")
    assert os.listdir(tmp_path) == ["ram"]
    while any(alive(pid) for pid in workers):
        assert time.monotonic() < end
        time.sleep(0.05)


def spawned(session: int) -> list[int]:
    """The workers that a process has started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.getsid(int(entry.name)) == session and b"spawn_main" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def alive(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_a_scheduler_that_is_killed_leaves_nothing(cluster: Processes, tmp_path: Path, short_runs: None) -> None:
    """The last test: it ends the cluster of all the others."""
    cluster.grow(1)
    source = ram(tmp_path / "ram", 60)

    def kill(progress: Any) -> None:
        if progress.phase == "dump" and progress.done:
            cluster.scheduler.kill()

    with pytest.raises(PydumpError, match=r"^the dask scheduler at tcp://127.0.0.1:\d+ is gone$"):
        dump(source, tmp_path / "out", executor=f"dask:{cluster.address}", progress=kill)
    assert os.listdir(tmp_path) == ["ram"]


def test_a_cluster_of_its_own_says_nothing_of_ports(tmp_path: Path) -> None:
    """Port 8787 is that of dask's dashboard; who has it, here or elsewhere, is no matter."""
    (tmp_path / "ram").write_bytes(guests.memory(16))
    words = ["dump", "raw:ram@0", "out", "--arch", "x86_64", "--executor", "dask:local:1", "-q"]
    with socket.socket() as taken:
        with suppress(OSError):
            taken.bind(("127.0.0.1", 8787))
            taken.listen()
        done = subprocess.run(
            [sys.executable, "-m", "pydump", *words], cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
    assert (done.returncode, done.stderr) == (0, "")
