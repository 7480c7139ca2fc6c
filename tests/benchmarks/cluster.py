"""How many batches a second the driver of a cluster handles, and what a cluster costs beside forked workers.

    python tests/benchmarks/cluster.py [--batches 20000]            the codec replaced by a sleep, 32 threads
    python tests/benchmarks/cluster.py --dump FILE [--workers 2]    FILE converted by forked workers and by a cluster

The figures in docs/explanation/scale.md come from here.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

#: Threads, and seconds that each batch takes.
THREADS, SECONDS = 32, 0.010


def simulated(batches: int) -> None:
    """Print the rate of batches."""
    import simulated_dump

    took, cpu = simulated_dump.run(THREADS, batches, SECONDS)
    limit = THREADS / SECONDS
    print(f"{batches} batches of 4 MiB, {SECONDS * 1000:.0f} ms each, {THREADS} threads: {took:.2f} s")
    print(f"{cpu:.2f} s of one CPU for scheduler, threads and driver: room for {batches / cpu:.0f} batches a second")
    print(f"{batches / took:.0f} batches a second of the {limit:.0f} that there could be")
    print(f"{batches * simulated_dump.BATCH / took / 1e9:.1f} GB/s of guest memory")


def dumped(path: str, workers: int, rounds: int) -> None:
    """Print how long both take, in turn, the cluster being there before."""
    from distributed import Client, LocalCluster

    import pydump

    with (
        tempfile.TemporaryDirectory() as directory,
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as own,
        Client(own),
    ):
        ways = {"forked": {"workers": workers}, "dask": {"executor": f"dask:{own.scheduler_address}"}}
        for _ in range(rounds):
            for name, way in ways.items():
                began = time.monotonic()
                pydump.dump(path, Path(directory) / "out", force=True, sync=False, **way)  # type: ignore[arg-type]
                print(f"{name:8} {time.monotonic() - began:7.2f} s", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=20_000)
    parser.add_argument("--dump", metavar="FILE")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    if given.dump:
        dumped(given.dump, given.workers, given.rounds)
    else:
        simulated(given.batches)
