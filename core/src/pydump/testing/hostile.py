"""Files whose headers are damaged byte by byte, and read within bounds of time and memory."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

from pydump.errors import PydumpError

#: Where headers lie: at the beginning, and in the second block of a format that works in blocks.
PLACES: Final = (*range(512), *range(4096, 4096 + 128))
#: CPU seconds that reading a damaged file may take.
SECONDS: Final = 2
#: Bytes of memory that it may take.
MEMORY: Final = 512 << 20
#: Seconds after which a reader that does not end, and cannot be interrupted, is given up.
HANG: Final = 60
#: Faults after which no more are looked for.
ENOUGH: Final = 3

#: What is done to a file: words for it, where, and the bytes that are put there; None cuts the file there.
Damage = tuple[str, int, bytes | None]


class _LateError(BaseException):
    """It took too long. No reader may catch this."""


def damages(size: int) -> Iterator[Damage]:
    """What is done to a file of ``size`` bytes: each byte of its headers, each number in them, and its length."""
    places = [at for at in PLACES if at < size]
    for at in places:
        for patch in (b"\0", b"\xff"):
            yield f"byte {at} set to {patch[0]:#x}", at, patch
    for patch in (b"\xff" * 4, b"\xff" * 7 + b"\x7f", b"\x7f" + b"\xff" * 7):
        for at in places[:: len(patch)]:
            yield f"bytes from {at} on set to {patch.hex()}", at, patch[: size - at]
    for at in (
        0,
        1,
        3,
        4,
        7,
        8,
        15,
        16,
        31,
        32,
        63,
        64,
        100,
        128,
        200,
        255,
        256,
        500,
        511,
        512,
        1000,
        4095,
        4096,
        4100,
    ):
        if at < size:
            yield f"cut after {at} bytes", at, None


def faults_of_damage(data: bytes, path: Path, read: Callable[[Path], object]) -> list[str]:
    """Damage a file in each way and read it.

    All of it is done in a forked process, whose memory is limited.

    Args:
        data: The whole file.
        path: Where damaged ones are put.
        read: Opens a file and reads some of its memory. It may raise a PydumpError.

    Returns:
        What went wrong, a line each; the first few.
    """
    path.write_bytes(data)
    fork = get_context("fork")
    ours, theirs = fork.Pipe(duplex=False)
    process = fork.Process(target=_reader, args=(data, path, read, theirs))
    process.start()
    theirs.close()
    doing, faults = "before the first", list[str]()
    with contextlib.suppress(EOFError):  # it is done, or has died
        while ours.poll(HANG):
            failed, doing = ours.recv()
            if failed:
                faults.append(doing)
        process.kill()
    process.join()
    if process.exitcode:
        faults.append(f"{doing}: the process that reads ended with exit code {process.exitcode}")
    return faults


def _reader(data: bytes, path: Path, read: Callable[[Path], object], pipe: Any) -> None:
    lines = Path("/proc/self/status").read_text().splitlines()
    taken = next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (taken + MEMORY, resource.RLIM_INFINITY))
    signal.signal(signal.SIGPROF, _late)
    found = 0
    with path.open("r+b", buffering=0) as file:
        for words, at, patch in damages(len(data)):
            pipe.send((False, words))
            if patch is None:
                file.truncate(at)
            else:
                os.pwrite(file.fileno(), patch, at)
            if said := _fault(path, read):
                pipe.send((True, f"{words}: {said}"))
                found += 1
            if found == ENOUGH:
                return
            os.pwrite(file.fileno(), data[at:] if patch is None else data[at : at + len(patch)], at)


def _fault(path: Path, read: Callable[[Path], object]) -> str:
    """What reading does that it must not, or ""."""
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        read(path)
    except PydumpError:
        return ""
    except _LateError:
        return f"reading takes more than {SECONDS} seconds"
    except MemoryError:
        return f"reading takes more than {MEMORY >> 20} MiB"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return ""


def _late(number: int, frame: object) -> None:
    raise _LateError
