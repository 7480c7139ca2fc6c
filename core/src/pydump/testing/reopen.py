"""Opens images in processes that inherit nothing."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from dataclasses import replace

from pydump.interfaces.image import MemoryImage

#: Bytes of memory that are compared, at most.
MOST = 64 << 20
#: Seconds after which a process is given up.
PATIENCE = 120
#: What the other process runs; its arguments are where it finds modules.
PROGRAM = "import sys; sys.path[:0] = sys.argv[1:]; from pydump.testing.reopen import main; main()"


def fingerprint(image: MemoryImage) -> str:
    """The facts of an image, and a digest of its memory: the same for images that are the same."""
    guest = image.guest()
    facts = replace(guest, sections=()), [(one.name, one.type, len(one.data)) for one in guest.sections]
    digest, left = hashlib.sha256(), MOST
    for start, end in guest.memory.ranges().subtract(image.unreadable()):
        for at in range(start, min(end, start + left), 1 << 20):
            buffer = bytearray(min(1 << 20, end - at, start + left - at))
            image.read_into(at, memoryview(buffer))
            digest.update(buffer)
        left -= min(left, end - start)
    absent = list(image.excluded()), list(image.unreadable())
    return repr((facts, absent, digest.hexdigest()))


def faults_of_reopening(image: MemoryImage) -> list[str]:
    """Open ``image`` in a process that inherits nothing, in another directory; one line for each difference.

    Args:
        image: An image whose :meth:`~pydump.interfaces.image.MemoryImage.reopen` gives a recipe.
    """
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(os.path.abspath, sys.path)],
        input=pickle.dumps(image.reopen()),
        capture_output=True,
        timeout=PATIENCE,
        cwd="/",
        check=False,
    )
    if done.returncode:
        return [f"it cannot be reopened: {done.stderr.decode(errors='replace').strip().splitlines()[-1]}"]
    return [] if done.stdout.decode() == fingerprint(image) else ["another process sees other facts or memory"]


def main() -> None:
    """Open the image whose recipe is on standard input, and print what it is."""
    with pickle.load(sys.stdin.buffer).open() as image:
        print(fingerprint(image), end="")
