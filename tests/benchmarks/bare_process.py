"""bare_process.py CODEC FILE OFFSET:SIZE…: a dump's least work as a process of its own, from its start to its end.

It reads the ranges of the file on all processors, passes over pages that are zero, calls the codec on every other one,
and forgets what comes of it.
"""

from __future__ import annotations

import os
import sys

from codec_calls import CODECS

PAGE = 4096
#: Bytes that are read at once.
PIECE = 4 << 20


def main() -> None:
    codec, path, *ranges = sys.argv[1:]
    pieces = [
        (at, min(PIECE, start + size - at))
        for start, size in (map(int, pair.split(":")) for pair in ranges)
        for at in range(start, start + size, PIECE)
    ]
    # Whoever is free takes the next number out of a pipe, which holds them all.
    taken, given = os.pipe()
    os.write(given, b"".join(i.to_bytes(4, "little") for i in range(len(pieces))))
    os.close(given)
    workers = [pid for _ in os.sched_getaffinity(0) if (pid := _worker(codec, path, pieces, taken))]
    if any(os.waitpid(pid, 0)[1] for pid in workers):
        sys.exit("a worker failed")


def _worker(codec: str, path: str, pieces: list[tuple[int, int]], taken: int) -> int:
    """Fork a worker; its pid."""
    pid = os.fork()
    if pid:
        return pid
    compress, zero = CODECS[codec](), bytes(PAGE)
    fd = os.open(path, os.O_RDONLY)
    while number := os.read(taken, 4):
        offset, size = pieces[int.from_bytes(number, "little")]
        data = os.pread(fd, size, offset)
        for at in range(0, len(data), PAGE):
            page = data[at : at + PAGE]
            if page != zero:
                compress(page)
    os._exit(0)


if __name__ == "__main__":
    main()
