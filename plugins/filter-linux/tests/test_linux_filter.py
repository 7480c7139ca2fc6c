"""What every filter must do, with a real guest; its pages are compared with makedumpfile's in tests/formats."""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

import pydump
from pydump.interfaces.arch import Arch
from pydump.interfaces.filter import Filter
from pydump.interfaces.image import MemoryImage
from pydump.model.guest import Guest
from pydump.registry import installed
from pydump.testing.filter import FilterTests
from pydump_filter_linux import LinuxFilter

GUEST = Path(__file__).parents[3] / "tests/data/qemu/linux-x86_64/elf.xz"


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pydump.Dump]:
    path = tmp_path_factory.mktemp("linux") / "elf"
    path.write_bytes(lzma.decompress(GUEST.read_bytes()))
    with pydump.open(path) as opened:
        yield opened


class TestLinux(FilterTests):
    filter: ClassVar[type[Filter]] = LinuxFilter

    @pytest.fixture(autouse=True)
    def _guest(self, dump: pydump.Dump) -> None:
        self._dump = dump

    def example(self) -> tuple[MemoryImage, Guest, type[Arch]]:
        return self._dump.image, self._dump.guest, installed().arch("x86_64")
