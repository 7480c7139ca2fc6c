"""Reading one source from forked processes at once, as workers do."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import get_context
from typing import Any

from pydump.errors import PydumpError
from pydump.interfaces.backing import Backing
from pydump.interfaces.image import MemoryImage

#: Bytes of one read.
PIECE = 1 << 14
#: Reads of each process.
READS = 200

Piece = tuple[int, bytes]


def faults_in_forks(
    opened: Callable[[], MemoryImage | Backing], memory: Mapping[int, bytes], *, processes: int = 3
) -> list[str]:
    """Let forked processes read one source.

    A file position is shared by all of them: whoever reads from it gets, now and then, what another asked for. That is
    a matter of luck, so that the position itself is watched as well: what read it has moved it.

    Args:
        opened: Opens the source, or the file.
        memory: What it must hold: paddr to bytes.
        processes: How many read at once.

    Returns:
        What went wrong, a line each.
    """
    pieces = [(at + i, data[i : i + PIECE]) for at, data in memory.items() for i in range(0, len(data), PIECE)]
    others = positions()
    with opened() as source:
        faults = _read(source, pieces[-1:])  # what is opened at first use is open now
        first, content = pieces[0]
        for piece in ((first, content[: len(content) // 2]), pieces[-1]):
            before = positions()
            faults += _forked(source, [[piece]])
            after = positions()
            faults += [
                f"read_into moves the file position of descriptor {fd}, which forked processes share"
                for fd in sorted(before.keys() - others.keys())
                if after.get(fd) != before[fd]
            ]
        many = pieces * (READS // len(pieces) + 1)
        # Each begins at another place, so that no two want the same at once.
        starts = [n * max(1, len(pieces) // processes) for n in range(processes)]
        return faults + _forked(source, [many[start:] + many[:start] for start in starts])


def _forked(source: MemoryImage | Backing, work: Sequence[Sequence[Piece]]) -> list[str]:
    """Have one process read each of the lists of ``work``, all of them at once."""
    fork = get_context("fork")
    barrier = fork.Barrier(len(work))
    pipes = [fork.Pipe(duplex=False) for _ in work]
    readers = [
        fork.Process(target=_reader, args=(source, pieces, barrier, theirs))
        for pieces, (_, theirs) in zip(work, pipes, strict=True)
    ]
    for reader in readers:
        reader.start()
    faults: list[str] = []
    for reader, (ours, theirs) in zip(readers, pipes, strict=True):
        theirs.close()
        reader.join(30)
        if reader.is_alive():
            reader.kill()
            reader.join()
        if reader.exitcode:
            faults.append(f"a forked process that reads ended with exit code {reader.exitcode}")
        elif ours.poll():
            faults += ours.recv()
        ours.close()
        reader.close()
    return faults


def _reader(source: MemoryImage | Backing, pieces: Sequence[Piece], barrier: Any, pipe: Any) -> None:
    barrier.wait(60)
    pipe.send(_read(source, pieces)[:1])


def _read(source: MemoryImage | Backing, pieces: Sequence[Piece]) -> list[str]:
    """Read, and say what is not as it should be."""
    faults = []
    for paddr, content in pieces:
        buffer = bytearray(len(content))
        try:
            source.read_into(paddr, memoryview(buffer))
        except PydumpError as error:
            faults.append(f"a forked process that reads at {paddr:#x} gets an error: {error}")
            continue
        if buffer != content:
            faults.append(f"a forked process that reads at {paddr:#x} gets something else")
    return faults


def positions() -> dict[int, int]:
    """Descriptor to file position, of all that this process has open: what forked processes share."""
    found = {}
    for fd in map(int, os.listdir("/proc/self/fdinfo")):
        with contextlib.suppress(FileNotFoundError), open(f"/proc/self/fdinfo/{fd}") as file:
            found[fd] = int(file.readline().removeprefix("pos:"))
    return found
