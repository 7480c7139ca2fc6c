"""Files as sources see them."""

from __future__ import annotations

import os

from pydump.builtin.files import FileBacking


def test_an_answer_about_holes_that_is_none() -> None:
    """A character device answers SEEK_DATA and SEEK_HOLE with 0 whatever is asked: no reason to ask for ever."""
    fd = os.open(os.devnull, os.O_RDONLY)
    assert (os.lseek(fd, 0, os.SEEK_DATA), os.lseek(fd, 0, os.SEEK_HOLE)) == (0, 0)
    backing = FileBacking("device", fd)
    try:
        assert list(backing.data_ranges(0, 8192)) == [(0, 8192)]
        assert list(backing.data_ranges(4096, 8192)) == [(4096, 12288)]
    finally:
        backing.close()
