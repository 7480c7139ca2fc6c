"""How long a read of a running guest takes on a connection that is kept: ``with pydump.open("qmp:…") as live``.

    python tests/benchmarks/session.py [--reads 1000]

Pages of 4 KiB are read at random, by each way to guest memory.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.pop(0)  # this directory, whose qemu.py would stand before the package of that name
sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from lab.live import live_guest

import pydump

#: MiB of guest memory.
SIZE = 256
PAGE = 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reads", type=int, default=1000)
    arguments = parser.parse_args()
    print(f"{arguments.reads} reads of {PAGE >> 10} KiB, milliseconds each: median, 99 of 100, most")
    for access in ("shared", "process", "stream"):
        with tempfile.TemporaryDirectory(prefix="pydump-session-") as name:
            directory = Path(name)
            with live_guest(directory, memory=SIZE, shared=access == "shared") as live:
                assert live.is_running()
                took = measure(live.source, access, arguments.reads)
                assert live.is_running()
        places = statistics.quantiles(took, n=100)
        print(f"{access:8} {statistics.median(took):8.3f} {places[98]:8.3f} {max(took):8.3f}")


def measure(source: str, access: str, reads: int) -> list[float]:
    """Milliseconds of each read."""
    dice = random.Random(1)
    took = []
    with pydump.open(source, options={"qmp": {"access": access}}) as guest:
        for _ in range(reads):
            paddr = dice.randrange(1 << 20, SIZE << 20, PAGE)
            began = time.perf_counter()
            guest.read(paddr, PAGE)
            took.append(1000 * (time.perf_counter() - began))
    return took


if __name__ == "__main__":
    main()
