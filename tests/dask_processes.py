"""A dask cluster on this machine, each part of which is a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Processes:
    """A scheduler and its workers.

    Args:
        directory: For their log.
        preload: Python that each worker runs first.
    """

    def __init__(self, directory: Path, preload: str = "") -> None:
        self._directory = directory
        self._preload = ("--preload", preload) if preload else ()
        self._file = directory / "scheduler.json"
        self.scheduler = self._start("scheduler", "--port", "0", "--host", "127.0.0.1", "--scheduler-file", self._file)
        self.workers: list[subprocess.Popen[bytes]] = []
        self._until(lambda: self._file.exists() and self._file.read_text().rstrip().endswith("}"))
        self.address: str = json.loads(self._file.read_text())["address"]

    def _start(self, what: str, *words: Any) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.dask_{what}", *map(str, words), "--no-dashboard"]
        # Workers that are somewhere else, and have only their address from this process.
        with (self._directory / "log").open("ab") as log:
            return subprocess.Popen(command, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def grow(self, count: int) -> None:
        """Have so many workers, at least."""
        from distributed import Client

        self.workers = [worker for worker in self.workers if worker.poll() is None]
        while len(self.workers) < count:
            words = ("--scheduler-file", self._file, "--nthreads", "1", "--no-nanny", "--host", "127.0.0.1")
            self.workers.append(self._start("worker", *words, *self._preload))
        with Client(self.address, timeout=60) as client:
            client.wait_for_workers(count, timeout=120)

    @contextmanager
    def only(self, count: int) -> Iterator[None]:
        """Have so many workers, and no others."""
        from distributed import Client

        for worker in self.workers[count:]:
            worker.kill()
            worker.wait(30)
        self.grow(count)
        with Client(self.address, timeout=60) as client:
            end = time.monotonic() + 60
            while len(client.nthreads()) != count:
                assert time.monotonic() < end
                time.sleep(0.05)
        yield

    def _until(self, holds: Callable[[], bool]) -> None:
        end = time.monotonic() + 60
        while not holds():
            assert time.monotonic() < end, (self._directory / "log").read_text()
            time.sleep(0.1)

    def end(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
        for process in (*self.workers, self.scheduler):
            process.wait(30)
