"""QEMU's ELF stream: its head, and where memory is said to lie behind it."""

from __future__ import annotations

import os

from pydump_qemu_stream.elf_head import read_head
from pydump_source_qemu.pipe import Pipe


def one(data: bytes) -> None:
    """Read a stream that ends after ``data``."""
    fd = os.memfd_create("stream")
    pipe = Pipe(fd)
    try:
        os.write(fd, data)
        os.lseek(fd, 0, os.SEEK_SET)
        for load in read_head(pipe).loads:
            pipe.skip_to(load.offset)
            pipe.read(min(load.size, 4096))
    except EOFError:  # the caller asks QEMU why it ended
        pass
    finally:
        pipe.close()
