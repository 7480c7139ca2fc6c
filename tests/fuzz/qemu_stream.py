"""Guests that QEMU or libvirt saved: streams, mapped-ram, save images and qcow2, with their memory and their CPUs."""

from __future__ import annotations

import os

from pydump.builtin.files import FileBacking, unpacked_part
from pydump.builtin.spool import PACKINGS
from pydump.errors import DamagedPageError
from pydump.interfaces.backing import Backing
from pydump.interfaces.format import Opened
from pydump.registry import installed
from pydump_format_qemu import QemuReaderOptions
from pydump_format_qemu.reader import open_image

#: Bytes of guest memory that are read of one input.
MOST = 1 << 20


def one(data: bytes) -> None:
    """Open a file, ask it for everything, and read the first of its memory in one go and in pieces."""
    fd = os.memfd_create("saved")
    os.write(fd, data)
    files: list[Backing] = [FileBacking("input", fd)]

    def unpacked(file: Backing, offset: int) -> Backing:
        files.append(unpacked_part(file, offset, PACKINGS))
        return files[-1]

    options = QemuReaderOptions(place="ram=0x1000")
    try:
        image = open_image(Opened(files[:1], lambda name: None, installed().decompressors(), unpacked, options))
        guest = image.guest()
        lost = image.unreadable()
        assert len(str((image.describe(), image.warnings()))) < 1 << 20
        left = MOST
        for start, end in guest.memory.ranges():
            size = min(end - start, left)
            left -= size
            whole = memoryview(bytearray(size))
            try:
                image.read_into(start, whole)
            except DamagedPageError:  # a compressed page
                continue
            for at in range(start, start + size, 5000):
                part = bytearray(min(5000, start + size - at))
                image.read_into(at, memoryview(part))
                assert part == whole[at - start : at - start + len(part)]
                image.place(at)
            data_ranges = list(image.data_ranges(start, size))
            at = start
            for first, last in [*data_ranges, (start + size, start + size)]:
                assert at <= first <= last <= start + size
                assert not any(whole[at - start : first - start])
                at = last
            for first, last in lost.clip(start, start + size):
                assert not any(whole[first - start : last - start])
    finally:
        for file in files:
            file.close()
