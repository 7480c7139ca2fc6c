"""How long a guest stands still for a dump: QEMU's kdump-zlib beside pydump's ways, in turn, on one running guest.

    python tests/benchmarks/pause.py [--rounds 5] [--size 1024] [--json FILE] [--write]

The guest runs a program that keeps writing to its memory, most of which holds what PYDUMP_BENCH_ELF's guest had in its,
or else this machine's files. How long it stood still is what QEMU's STOP and RESUME events say on a monitor of their
own, whoever dumps. A Linux guest of 2 GiB full of page cache shows what leaving pages out saves, where the tests have
fetched its kernel into PYDUMP_LAB. ``--write`` puts the table into docs/explanation/performance.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

import image
from bench import machine, say, written
from lab.counting import counting_guest
from lab.live import Live, live_guest

import pydump

BEGIN, END = "<!-- begin of what pause.py writes -->\n", "<!-- end of what pause.py writes -->\n"
#: Where the contents lie in the guest: past what its program writes to.
CONTENTS = 64 << 20
#: Seconds that a dump may take.
TIMEOUT = 600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=1024, help="MiB of guest memory")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers as JSON as well")
    parser.add_argument("--write", action="store_true", help="put the table into the documentation")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pydump-pause-") as name:
        directory = Path(name)
        contents = directory / "contents"
        write_contents(contents, (arguments.size << 20) - CONTENTS)
        load = ("-device", f"loader,file={contents},addr={CONTENTS:#x},force-raw=on")
        with live_guest(directory, memory=arguments.size, arguments=load) as live:
            assert live.is_running()
            paused = measure(live, directory / "vmcore", arguments.rounds)
        filtered = measure_filtered(directory, arguments.rounds)
    table = "\n".join([*rows(paused), "", *filtered_rows(filtered)])
    about = (
        f"{datetime.now(UTC):%Y-%m-%d}, {machine()}, a running guest of {arguments.size} MiB under TCG, medians of "
        f"{arguments.rounds}."
    )
    print(f"{about}\n\n{table}")
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"about": about, "paused_seconds": paused, "filtered": filtered}, indent=2) + "\n"
        )
    if arguments.write:
        written(BEGIN, END, f"{about}\n\n{table}")


def write_contents(path: Path, size: int) -> None:
    """Fill ``path`` with ``size`` bytes of real memory."""
    elf = os.environ.get("PYDUMP_BENCH_ELF")
    with path.open("wb") as out:
        if elf:
            with pydump.open(elf) as vmcore:
                for block in vmcore.stated.memory:
                    for at in range(block.paddr, min(block.end, block.paddr + size - out.tell()), 64 << 20):
                        out.write(vmcore.read(at, min(64 << 20, block.end - at)))
        else:
            runs = image.file_runs()
            while out.tell() < size:
                out.write(next(runs))
        out.truncate(size)


def measure(live: Live, output: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds that the guest stood still, of each way and round."""

    def qemu() -> None:
        live.qmp.command("dump-guest-memory", paging=False, protocol=f"file:{output}", format="kdump-zlib")

    def ours(*options: str) -> Callable[[], None]:
        command = [sys.executable, "-m", "pydump", "dump", "--quiet", *options, live.source, str(output)]
        return lambda: void(subprocess.run(command, check=True, timeout=TIMEOUT))

    ways = {
        "QEMU kdump-zlib": qemu,
        "pydump --pause full": ours("--pause", "full"),
        "pydump --pause copy": ours("--pause", "copy"),
        "pydump --pause snapshot": ours("--pause", "snapshot"),
    }
    took: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, run in ways.items():
            say(f"round {number + 1} of {rounds}: {name}")
            live.qmp.stops()
            run()
            took[name].append(live.qmp.stops())
            output.unlink()
            assert live.is_running()
    return took


def measure_filtered(directory: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds that a Linux guest of 2 GiB full of page cache stood still, with all of its pages and without."""
    kernel = Path(os.environ.get("PYDUMP_LAB") or Path.home() / ".cache/pydump-lab", "kernels/x86_64/kernel")
    if not kernel.exists():
        say(f"without -d 31: {kernel} is not there")
        return {}
    took: dict[str, list[float]] = {"pydump --pause copy": [], "pydump --pause copy -d 31": []}
    with counting_guest(directory, kernel, memory=2048, fill=1600) as (qmp, source):
        for number in range(rounds):
            for name, found in took.items():
                say(f"round {number + 1} of {rounds}: {name}")
                qmp.stops()
                command = [sys.executable, "-m", *name.replace("pydump", "pydump dump --quiet").split()]
                subprocess.run([*command, source, str(directory / "vmcore")], check=True, timeout=TIMEOUT)
                found.append(qmp.stops())
                (directory / "vmcore").unlink()
    return took


def filtered_rows(took: dict[str, list[float]]) -> list[str]:
    """The table of a guest full of page cache, in Markdown; nothing without one."""
    lines = ["| Linux, 2 GiB, 1.6 GiB of it page cache | guest paused, ms | least to most |", "| --- | ---: | ---: |"]
    for name, seconds in took.items():
        spread = f"{1000 * min(seconds):.1f} to {1000 * max(seconds):.1f}"
        lines.append(f"| {name} | {1000 * statistics.median(seconds):.1f} | {spread} |")
    return lines if took else []


def rows(took: dict[str, list[float]]) -> list[str]:
    """The table, in Markdown."""
    first = statistics.median(next(iter(took.values())))
    lines = [
        "| who | guest paused, ms | least to most | QEMU's is so many times as long |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, seconds in took.items():
        median = statistics.median(seconds)
        spread = f"{1000 * min(seconds):.1f} to {1000 * max(seconds):.1f}"
        lines.append(f"| {name} | {1000 * median:.1f} | {spread} | {first / median:.0f} |")
    return lines


def void(_: object) -> None:
    """Nothing."""


if __name__ == "__main__":
    main()
