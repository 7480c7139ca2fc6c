"""What all tests share."""

from __future__ import annotations

import lzma
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

# What a shell starts in the background ignores Ctrl-C, and so do its children; tests send it to theirs.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

DATA = Path(__file__).parent / "data"
#: Bytes of which pytest would report every difference where ``CI`` is set, and work for ever.
LONG = 1 << 14


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """How ``==`` of much memory failed, in a line."""
    if op != "==" or not isinstance(left, bytes) or not isinstance(right, bytes) or len(left) + len(right) < LONG:
        return None
    where = next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
    return [
        f"{len(left)} bytes == {len(right)} bytes",
        f"they part at {where:#x}: {left[where : where + 16].hex()} and {right[where : where + 16].hex()}",
    ]


@pytest.fixture(scope="session")
def qemu(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Gives a file that QEMU wrote, unpacked: ``qemu("bare-s390x", "elf")``. Do not write to it."""
    directory = tmp_path_factory.mktemp("qemu")

    def unpack(guest: str, name: str) -> Path:
        path = directory / f"{guest}-{name}"
        if not path.exists():
            path.write_bytes(lzma.decompress((DATA / "qemu" / guest / f"{name}.xz").read_bytes()))
        return path

    return unpack
