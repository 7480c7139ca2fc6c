"""Workers on other hosts, as far as the network shows: each in a network namespace of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import Client

import pydump
from pydump.testing import guests

#: Reserved for documentation: nobody has it. Source: RFC 5737, 3.
NET = "203.0.113"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=30)


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """Two network namespaces, joined by a bridge that has the address 1; theirs are 2 and 3."""
    if shutil.which("ip") is None:
        pytest.skip("install iproute2, for ip netns")
    bridge, names = f"pdb{os.getpid()}", [f"pydump-{os.getpid()}-{i}" for i in (2, 3)]
    try:
        ip("link", "add", bridge, "type", "bridge")
        ip("address", "add", f"{NET}.1/24", "dev", bridge)
        ip("link", "set", bridge, "up")
        for i, name in enumerate(names, 2):
            ip("netns", "add", name)
            ip("link", "add", f"pd{i}x{os.getpid()}", "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "set", f"pd{i}x{os.getpid()}", "master", bridge, "up")
            for words in (f"address add {NET}.{i}/24 dev eth0", "link set eth0 up", "link set lo up"):
                ip("netns", "exec", name, "ip", *words.split())
        yield names
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces cannot be made here, which takes root: {error}")
    finally:
        for words in (*(["netns", "delete", name] for name in names), ["link", "delete", bridge]):
            subprocess.run(["ip", *words], check=False, capture_output=True, timeout=30)


@pytest.mark.filterwarnings("ignore")
def test_workers_on_other_hosts_give_the_same_bytes(hosts: list[str], tmp_path: Path) -> None:
    (tmp_path / "ram").write_bytes(guests.memory(1280))
    source = f"raw:{tmp_path / 'ram'}@0"
    python = [sys.executable, "-m"]
    common = ["--no-dashboard", "--host"]
    address = tmp_path / "scheduler.json"
    commands = [[*python, "distributed.cli.dask_scheduler", *common, f"{NET}.1", "--port", "0"]]
    commands[0] += ["--scheduler-file", str(address)]
    for i, name in enumerate(hosts, 2):
        worker = [*python, "distributed.cli.dask_worker", "--scheduler-file", str(address), "--no-nanny"]
        commands.append(["ip", "netns", "exec", name, *worker, "--nthreads", "1", *common, f"{NET}.{i}"])
    running: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            with (tmp_path / "log").open("ab") as log:
                running.append(subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log))
            until = time.monotonic() + 60
            while not (address.exists() and address.read_text().rstrip().endswith("}")) and time.monotonic() < until:
                time.sleep(0.05)
        with Client(scheduler_file=str(address), timeout=60) as client:
            client.wait_for_workers(2, timeout=120)
            at = client.scheduler_info()
        assert sorted(worker["host"] for worker in at["workers"].values()) == [f"{NET}.2", f"{NET}.3"]
        for name, way in (("own", {"workers": 1}), ("theirs", {"executor": f"dask:{at['address']}"})):
            pydump.dump(source, tmp_path / name, arch="x86_64", no_vmcoreinfo=True, sync=False, **way)
        assert (tmp_path / "theirs").read_bytes() == (tmp_path / "own").read_bytes()
    finally:
        for process in running:
            process.kill()
            process.wait(30)
