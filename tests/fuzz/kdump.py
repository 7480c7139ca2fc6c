"""kdump files: headers, bitmaps, notes, descriptors and pages, whole or as the parts of a split set."""

from __future__ import annotations

import os

from pydump.builtin.files import FileBacking
from pydump.errors import PydumpError
from pydump.registry import installed
from pydump_format_kdump.reader import KdumpImage

#: Separates the parts of a split set in one input.
BETWEEN = b"\n-- part --\n"
#: Pages that are read of one input.
MAX_PAGES = 256


class Far(FileBacking):
    """A file that says it is remote: an index of the bitmaps is used."""

    remote = True


def one(data: bytes) -> None:
    """Open a file as a local and as a remote one, ask it for everything, and read its first pages."""
    for kind in (FileBacking, Far):
        try:
            _one(data, kind)
        except PydumpError:
            if kind is Far:
                raise


def _one(data: bytes, kind: type[FileBacking]) -> None:
    files = []
    for part in data.split(BETWEEN):
        fd = os.memfd_create("kdump")
        os.write(fd, part)
        files.append(kind("input", fd))
    try:
        source = KdumpImage(files, installed().decompressors())
        guest = source.guest()
        excluded, lost = source.excluded(), source.unreadable()
        assert not excluded.intersect(lost)
        for lines in (source.describe(), source.warnings(), [*source.defects()], [*source.problems()]):
            assert len(str(lines)) < 1 << 20
        page = guest.page_size or 4096
        buffer = memoryview(bytearray(page))
        done = 0
        for start, end in guest.memory.ranges().subtract(excluded):
            for paddr in range(start, min(end, start + (MAX_PAGES - done) * page), page):
                done += 1
                try:
                    source.read_into(paddr, buffer)
                    source.stored_pages([(paddr, paddr + page)], page, "zlib")
                except PydumpError:  # this page, and perhaps not the next
                    continue
                assert not lost.clip(paddr, paddr + page) or not any(buffer)
            if done == MAX_PAGES:
                break
    finally:
        for file in files:
            file.close()
