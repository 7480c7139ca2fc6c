"""Streams as QEMU wrote them, with QEMU's own ELF dump of the same guest. See PROVENANCE.md beside the files."""

from __future__ import annotations

import lzma
import os
from functools import cache
from pathlib import Path

from pydump.builtin.files import FileBacking
from pydump.errors import PydumpError
from pydump_qemu_stream.index import Index
from pydump_qemu_stream.reader import FileReader
from pydump_qemu_stream.records import MAX_RAM
from pydump_qemu_stream.stream import Stream

DATA = Path(__file__).parent / "data/containers"
#: Stream, the dump of the same guest, and where in the file the stream begins.
SAMPLES = [
    ("aarch64-10.stream", "aarch64-10.elf", 0),
    ("ppc64-7.stream", "ppc64-7.elf", 0),
    ("riscv64-10.stream", "riscv64-10.elf", 0),
    ("s390x-7.stream", "s390x-7.elf", 0),
    ("x86_64-7.stream", "x86_64-7.elf", 0),
    ("x86_64-7-compress.stream", "x86_64-7.elf", 0),
    ("x86_64-7-xbzrle.stream", "x86_64-7-xbzrle.elf", 0),
    ("x86_64-10-bgsnapshot.stream", "x86_64-10-bgsnapshot.elf", 0),
    ("x86_64-10-mappedram", "x86_64-10.elf", 0),
    ("x86_64-10-mappedram-off", "x86_64-10.elf", 0x123000),
]


@cache
def content(name: str) -> bytes:
    """A sample's bytes."""
    return lzma.decompress((DATA / f"{name}.xz").read_bytes())


def backing(data: bytes) -> FileBacking:
    """A file with these bytes, and holes for its zeros."""
    fd = os.memfd_create("stream")
    for at in range(0, len(data), 1 << 20):
        if any(data[at : at + (1 << 20)]):
            os.pwrite(fd, data[at : at + (1 << 20)], at)
    os.truncate(fd, len(data))
    return FileBacking("stream", fd)


def indexed(file: FileBacking, start: int = 0) -> tuple[Stream, Index, PydumpError | EOFError | None]:
    """Walk a stream; with what ended it early."""
    index = Index()
    stream = Stream(FileReader(file, start), index, MAX_RAM)
    try:
        stream.read()
    except (PydumpError, EOFError) as error:
        return stream, index, error
    return stream, index, None
