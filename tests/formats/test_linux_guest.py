"""The bundled dump of a booted Linux guest, through every form, against the RAM that was behind the guest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

import pydump

pytestmark = pytest.mark.slow

#: The guest's RAM, and the SHA-256 of the file behind it: see PROVENANCE.md.
RAM_SIZE = 96 << 20
RAM_SHA256 = "91c3dbaa105cedf063bc97b0a684951abf8131f50d63b2e8a14deff255739f81"


@pytest.mark.parametrize("flatten", [False, True], ids=["plain", "flattened"])
@pytest.mark.parametrize(
    ("format", "compression"),
    [("elf", "none"), ("kdump", "none"), ("kdump", "zlib"), ("kdump", "lzo"), ("kdump", "snappy"), ("kdump", "zstd")],
)
def test_memory_is_the_guests_ram(
    format: str, compression: str, flatten: bool, qemu: Callable[[str, str], Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    source = str(qemu("linux-x86_64", "elf"))
    pydump.dump(source, str(out), format=format, compression=compression, flatten=flatten)
    with pydump.open(str(out)) as dump:
        assert hashlib.sha256(dump.read(0, RAM_SIZE)).hexdigest() == RAM_SHA256
