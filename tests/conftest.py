"""What all tests share."""

from __future__ import annotations

import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

DATA = Path(__file__).parent / "data"


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
