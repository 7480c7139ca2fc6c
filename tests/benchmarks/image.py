"""A guest image of this machine's files, for those who have no dump of a booted guest at hand."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from measure import seconds

#: Shares of guest memory, in hundredths: zeros, files, files that came before (as a page cache and a buffer hold the
#: same file twice), and bytes that no codec can shrink.
SHARES = {"zero": 25, "file": 45, "again": 20, "random": 10}
#: Contents change at multiples of this many bytes.
RUN = 64 << 10
#: Where the files come from.
ROOTS = ("/usr/lib", "/usr/bin", "/usr/share", "/opt")


def make_elf(path: Path, size: int) -> None:
    """Write an ELF vmcore with ``size`` bytes of guest memory to ``path``; the same files make the same memory."""
    raw = path.with_suffix(".raw")
    dice = random.Random(1)
    kinds = [kind for kind, share in SHARES.items() for _ in range(share)]
    runs = file_runs()
    seen: list[int] = []
    with raw.open("w+b") as out:
        out.truncate(size)
        for at in range(0, size - RUN + 1, RUN):
            kind = dice.choice(kinds)
            if kind == "random":
                os.pwrite(out.fileno(), dice.randbytes(RUN), at)
            elif kind == "again" and seen:
                os.pwrite(out.fileno(), os.pread(out.fileno(), RUN, dice.choice(seen)), at)
            elif kind != "zero":
                os.pwrite(out.fileno(), next(runs), at)
                seen.append(at)
    try:
        seconds(
            [sys.executable, "-m", "pydump", "dump", "--arch", "x86_64", "--format", "elf", f"raw:{raw}[0:]", str(path)]
        )
    finally:
        raw.unlink()


def file_runs() -> Iterator[bytes]:
    """The contents of this machine's files, end to end, in runs; from the beginning again when they are used up."""
    while True:
        rest = b""
        for path in _files():
            try:
                rest += path.read_bytes()
            except OSError:
                continue
            whole = len(rest) // RUN * RUN
            for at in range(0, whole, RUN):
                yield rest[at : at + RUN]
            rest = rest[whole:]


def _files() -> Iterator[Path]:
    for root in ROOTS:
        for directory, folders, names in os.walk(root):
            folders.sort()
            for name in sorted(names):
                path = Path(directory, name)
                if path.is_file() and not path.is_symlink() and path.stat().st_size < 64 << 20:
                    yield path
