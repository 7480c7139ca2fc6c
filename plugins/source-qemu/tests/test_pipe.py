"""How long a stream of QEMU's is waited for."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator

import pytest

from pydump.errors import SourceError
from pydump_source_qemu.limits import PROGRESS
from pydump_source_qemu.pipe import Pipe

PATIENCE = 0.2


@pytest.fixture
def ends() -> Iterator[tuple[Pipe, int]]:
    """A pipe's reading end, and the descriptor of its writing end."""
    reader, writer = os.pipe()
    pipe = Pipe(reader, patience=PATIENCE)
    yield pipe, writer
    pipe.close()
    os.close(writer)


def test_a_stream_that_does_not_go_on_is_given_up(ends: tuple[Pipe, int]) -> None:
    pipe, writer = ends
    os.write(writer, b"begun")
    with pytest.raises(SourceError, match="does not go on: 5 bytes in 0.2 s"):
        pipe.read(6)


def test_a_stream_that_drips_is_given_up(ends: tuple[Pipe, int]) -> None:
    pipe, writer = ends
    end = threading.Event()

    def drip() -> None:
        while not end.wait(0.01):
            os.write(writer, b"x")

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        with pytest.raises(SourceError, match="does not go on"):
            pipe.read(1000)
    finally:
        end.set()
        thread.join()


def test_what_the_reader_does_in_between_does_not_count(ends: tuple[Pipe, int]) -> None:
    pipe, writer = ends
    for _ in range(3):
        os.write(writer, b"x")
        time.sleep(PATIENCE)
        assert pipe.read(1) == b"x"


def test_a_stream_that_goes_on_is_read_however_long_it_takes() -> None:
    reader, writer = os.pipe()
    pipe = Pipe(reader, patience=1)

    def write() -> None:
        with contextlib.suppress(OSError), open(writer, "wb", buffering=0) as file:
            for _ in range(4):
                time.sleep(0.3)
                data = memoryview(bytes(PROGRESS))
                while data:
                    data = data[file.write(data) :]

    thread = threading.Thread(target=write)
    thread.start()
    try:
        pipe.skip_to(4 * PROGRESS)
    finally:
        pipe.close()
        thread.join()


def test_a_stream_ends_where_it_must() -> None:
    reader, writer = os.pipe()
    pipe = Pipe(reader, patience=PATIENCE)
    os.write(writer, bytes(100))
    with pytest.raises(SourceError, match="goes on behind its end"):
        pipe.drain(50)
    os.write(writer, bytes(100))
    os.close(writer)
    pipe.drain(100)
    pipe.close()
