"""What the recorder keeps, and how a dump is read from it. The dump is one that QEMU 7.2 wrote."""

from __future__ import annotations

import json
import lzma
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from pydump.errors import Cancelled, ReadError, SourceError
from pydump.model.memory import Ranges
from pydump.testing.readers import read_elf
from pydump_source_libvirt.parent import STEP, Parent
from pydump_source_libvirt.stored import DumpImage, StoredStream

#: Our end of the lifeline, and the recorder's.
Ends = tuple[socket.socket, socket.socket]
DUMP = Path(__file__).parents[3] / "tests/data/qemu/nano-x86_64/elf.xz"


@pytest.fixture(scope="module")
def dump() -> bytes:
    return lzma.decompress(DUMP.read_bytes())


@pytest.fixture
def file() -> Iterator[BinaryIO]:
    with tempfile.TemporaryFile() as file:
        yield file


@pytest.fixture
def lifeline() -> Iterator[Ends]:
    """Our end, and the recorder's."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def kept(data: bytes, file: BinaryIO, lifeline: Ends) -> Parent:
    """``data``, kept piece by piece."""
    parent = Parent(os.getpid(), lifeline[1], file.fileno())
    for at in range(0, len(data), STEP):
        parent.keep(memoryview(data)[at : at + STEP])
    return parent


def test_a_dump_reads_as_another_reader_reads_it(dump: bytes, file: BinaryIO, lifeline: Ends) -> None:
    kept(dump, file, lifeline).finish()
    truth = read_elf(dump)
    with DumpImage(StoredStream(file)) as image:
        memory = image.guest().memory
        assert memory.ranges() == Ranges.of((paddr, paddr + len(data)) for paddr, data in truth.pages.items())
        for block in memory:
            buffer = bytearray(block.size)
            image.read_into(block.paddr, memoryview(buffer))
            assert buffer == truth.read(block.paddr, block.size)
        with pytest.raises(ReadError, match="there is no RAM at"):
            image.read_into(memory.end, memoryview(bytearray(1)))


def test_zeros_are_a_hole(file: BinaryIO, lifeline: Ends) -> None:
    data = b"begin" + bytes(3 * STEP - 5) + b"end" + bytes(2 * STEP)
    kept(data, file, lifeline).finish()
    assert os.pread(file.fileno(), len(data) + 1, 0) == data
    assert os.fstat(file.fileno()).st_blocks * 512 < 3 * STEP


def test_a_dump_that_ends_early_is_refused(dump: bytes, file: BinaryIO, lifeline: Ends) -> None:
    parent = kept(dump[:-4096], file, lifeline)
    parent.finish()
    with pytest.raises(SourceError, match="^libvirt's dump ends before the memory does"):
        DumpImage(StoredStream(file))
    os.ftruncate(file.fileno(), 100)
    with pytest.raises(SourceError, match="^libvirt's dump ends within its headers"):
        DumpImage(StoredStream(file))


def test_progress_is_told(file: BinaryIO, lifeline: Ends) -> None:
    kept(b"x" * (17 * STEP), file, lifeline)
    assert json.loads(lifeline[0].recv(1000)) == {"kept": 16 * STEP}


def test_nothing_is_kept_for_a_parent_that_is_gone(file: BinaryIO, lifeline: Ends) -> None:
    parent = kept(b"some", file, lifeline)
    parent.check()
    lifeline[0].close()
    parent.keep(memoryview(b"more"))
    parent.tell(done="snapshot")
    parent.finish()
    assert os.fstat(file.fileno()).st_size == 4
    with pytest.raises(Cancelled):
        parent.check()


def test_a_full_disk_is_named(lifeline: Ends) -> None:
    with open("/dev/full", "wb", 0) as full:
        parent = kept(b"some", full, lifeline)
    with pytest.raises(SourceError, match="^cannot keep the memory of the domain: No space left.*TMPDIR"):
        parent.check()
