"""All measured figures of docs/explanation/scale.md.

    python tests/benchmarks/cluster.py                 what takes no file: the driver's rate, and reading from a store
    python tests/benchmarks/cluster.py --dump FILE     also FILE by forked workers and by clusters, to a file and to S3

More words are options of ``pydump dump``: ``--dump raw:RAM@0,RAM@4G -- --arch x86_64 --no-dedup``.
CPU seconds are those of all processes; of a cluster that was there before, without what it uses while it is idle.
Everything is measured in turn, and the median is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from dask_processes import Processes
from s3_proxy import Proxy
from s3_server import credentials, serving

#: Threads, batches, and seconds that each batch takes.
THREADS, BATCHES, SECONDS = 32, 20_000, 0.010
#: Sizes of clusters.
WORKERS = (2, 4, 8)
#: Bytes of the part of a dump that shows what does not grow with it.
PART = 384 << 20
MIB = 1 << 20


class Cost(NamedTuple):
    """What a command takes: CPU seconds of its own processes, of the scheduler and of the workers; and by the clock."""

    driver: float
    scheduler: float
    workers: float
    clock: float

    @property
    def cpu(self) -> float:
        return self.driver + self.scheduler + self.workers

    def __str__(self) -> str:
        parts = f"driver {self.driver:5.2f}  scheduler {self.scheduler:5.2f}  workers {self.workers:5.2f}"
        return f"{self.cpu:6.2f} CPU s  ({parts})  {self.clock:6.2f} s by the clock"


def cpu_of(pid: int) -> float:
    """CPU seconds of a process. Source: proc(5), /proc/pid/stat, fields 14 and 15."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


class Measured:
    """Commands beside a cluster that is idle but for them.

    Args:
        cluster: The cluster, or None.
    """

    def __init__(self, cluster: Processes | None) -> None:
        self._pids = [cluster.scheduler.pid, *(one.pid for one in cluster.workers)] if cluster else []
        before, wait = self._used(), 3.0
        if cluster:
            time.sleep(wait)
        self._idle = [(now - then) / wait for now, then in zip(self._used(), before, strict=True)]

    def run(self, *words: str) -> Cost:
        """Run ``pydump`` and say what it takes."""
        before, ours, began = self._used(), _children(), time.monotonic()
        subprocess.run([sys.executable, "-m", "pydump", *words], check=True, stdout=subprocess.DEVNULL)
        took = time.monotonic() - began
        # On a busy machine a process that is idle uses less than it did.
        used = zip(self._used(), before, self._idle, strict=True)
        spent = [max(0.0, now - then - idle * took) for now, then, idle in used]
        return Cost(_children() - ours, spent[0] if spent else 0.0, sum(spent[1:]), took)

    def _used(self) -> list[float]:
        return [cpu_of(pid) for pid in self._pids]


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def median(costs: Sequence[Cost]) -> Cost:
    """The one whose CPU seconds are in the middle."""
    return sorted(costs, key=lambda cost: cost.cpu)[len(costs) // 2]


@contextlib.contextmanager
def cluster_of(count: int) -> Iterator[Processes]:
    """A scheduler and so many workers."""
    with tempfile.TemporaryDirectory() as directory:
        processes = Processes(Path(directory))
        try:
            processes.grow(count)
            yield processes
        finally:
            processes.end()


def simulated() -> None:
    """The driver alone, the codec replaced by a sleep."""
    import simulated_dump

    found = [simulated_dump.run(THREADS, BATCHES, SECONDS) for _ in range(3)]
    took, cpu = (statistics.median(one) for one in zip(*found, strict=True))
    print(f"## {BATCHES} batches of 4 MiB, {SECONDS * 1000:.0f} ms each, {THREADS} threads")
    print(f"by the clock {BATCHES / took:.0f} batches a second, {BATCHES * simulated_dump.BATCH / took / 1e9:.1f} GB/s")
    print(f"by the CPU of scheduler, threads and driver {BATCHES / cpu:.0f} batches a second", flush=True)


def overhead(path: str, options: Sequence[str], rounds: int) -> None:
    """Forked workers and clusters, whole and in part."""
    print(f"## {path} to a file, medians of {rounds}")
    with tempfile.TemporaryDirectory() as directory:
        common = ["dump", path, f"{directory}/out", "--force", "--no-sync", "--progress", "none", "--quiet"]
        common += options
        for count in WORKERS:
            with cluster_of(count) as cluster:
                measured = Measured(cluster)
                ways = {"forked": ["--workers", str(count)], "dask": ["--executor", f"dask:{cluster.address}"]}
                for label, part in (("whole", []), (f"{PART // MIB} MiB", ["--length", str(PART)])):
                    found: dict[str, list[Cost]] = {name: [] for name in ways}
                    measured.run(*common, *ways["dask"], *part)  # workers have loaded what they need
                    for _ in range(rounds):
                        for name, way in ways.items():
                            found[name].append(measured.run(*common, *way, *part))
                    forked, dask = (median(found[name]) for name in ways)
                    print(f"{count} workers, {label:8}  forked  {forked}")
                    print(f"{count} workers, {label:8}  dask    {dask}")
                    more = dask.cpu - forked.cpu
                    print(f"   more: {more:.2f} CPU s, {100 * more / forked.cpu:.0f} %", flush=True)


def stored(path: str, options: Sequence[str]) -> None:
    """A cluster to S3: what goes through the driver. Workers have the server's address, the driver a proxy's."""
    with serving() as server:
        os.environ.update(credentials(server))
        import boto3

        boto3.client("s3", endpoint_url=server).create_bucket(Bucket="crash")
        with cluster_of(2) as cluster, Proxy(server) as proxy:
            os.environ["AWS_ENDPOINT_URL"] = proxy.url
            words = ["dump", path, "s3://crash/x", "--quiet", "--executor", f"dask:{cluster.address}", *options]
            cost = Measured(cluster).run(*words)
            os.environ["AWS_ENDPOINT_URL"] = server
        size = boto3.client("s3", endpoint_url=server).head_object(Bucket="crash", Key="x")["ContentLength"]
    print(f"## {path} to S3 by two workers\n{cost}")
    print(f"{size / 1e6:.0f} MB, of which the driver sent {proxy.up / 1e6:.1f}", flush=True)


def read_of_1_tib(rounds: int) -> None:
    """What a filtered kdump of 1 TiB takes to open, as a whole process."""
    import large_guest
    import pydump

    with serving() as server:
        os.environ.update(credentials(server))
        import boto3

        boto3.client("s3", endpoint_url=server).create_bucket(Bucket="crash")
        pydump.dump(large_guest.Filtered(), "s3://crash/x", arch="x86_64", no_vmcoreinfo=True, workers=1)
        with Proxy(server) as proxy:
            measured = Measured(None)
            for words in (["info", "s3://crash/x"], ["read", "s3://crash/x", hex(large_guest.KEPT), "8"]):
                os.environ["AWS_ENDPOINT_URL"] = server
                cost = median([measured.run(*words) for _ in range(rounds)])
                os.environ["AWS_ENDPOINT_URL"], proxy.down = proxy.url, 0
                measured.run(*words)
                print(f"## {words[0]} of 1 TiB on S3: {cost.cpu:.2f} CPU s, {cost.clock:.2f} s by the clock, ", end="")
                print(f"{proxy.down / 1024:.0f} KiB fetched", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dump", metavar="FILE")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("options", nargs="*", metavar="OPTION")
    given = parser.parse_args()
    simulated()
    read_of_1_tib(given.rounds)
    if given.dump:
        overhead(given.dump, given.options, given.rounds)
        stored(given.dump, given.options)
