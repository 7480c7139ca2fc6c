"""XBZRLE: a page as its difference from the version before it.

Source: docs/devel/migration (xbzrle.txt) and migration/xbzrle.c of QEMU 7.2.
"""

from __future__ import annotations

from pydump_qemu_stream.reader import damaged


def apply(delta: bytes, page: bytearray) -> None:
    """Turn the version of a page before a delta into the one after it, in place.

    A delta is pairs of a run of bytes that stay, and a run of bytes that follow; each begins with its length.

    Raises:
        StreamError: The delta is damaged.
    """
    at = done = 0
    while at < len(delta):
        skip, at = _length(delta, at)
        done += skip
        if at == len(delta):
            break
        size, at = _length(delta, at)
        if not size or at + size > len(delta) or done + size > len(page):
            raise damaged("a delta of a page does not fit it")
        page[done : done + size] = delta[at : at + size]
        at += size
        done += size


def _length(delta: bytes, at: int) -> tuple[int, int]:
    """A number in ULEB128 of two bytes at most, and where it ends. Source: uleb128_decode_small in util/cutils.c."""
    if at >= len(delta):
        raise damaged("a delta of a page ends early")
    if not delta[at] & 0x80:
        return delta[at], at + 1
    if at + 1 >= len(delta) or delta[at + 1] & 0x80:
        raise damaged("a delta of a page has a length that is too long")
    return delta[at] & 0x7F | delta[at + 1] << 7, at + 2
