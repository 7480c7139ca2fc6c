"""Synthetic guest memory with known contents: the same bytes for the same arguments, everywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

#: Bytes of a page where nothing else is said.
PAGE = 4096


def random_page(seed: int, size: int = PAGE) -> bytes:
    """A page that no codec can shrink."""
    return hashlib.shake_128(b"pydump %d" % seed).digest(size)


def text_page(seed: int, size: int = PAGE) -> bytes:
    """A page of prose-like text."""
    line = b"page %08d: the quick brown fox jumps over the lazy dog\n" % seed
    return (line * (size // len(line) + 1))[:size]


def ramp_page(seed: int, size: int = PAGE) -> bytes:
    """A page that counts up from ``seed``."""
    return bytes((seed + i) & 0xFF for i in range(256)) * (size // 256)


def zero_page(seed: int, size: int = PAGE) -> bytes:
    """A page of zeros."""
    return bytes(size)


def almost_zero_page(seed: int, size: int = PAGE) -> bytes:
    """A page of zeros but for one byte, which lies at another place for each seed."""
    page = bytearray(size)
    page[seed * 977 % size] = 1
    return bytes(page)


#: All kinds, for those who want one of each.
KINDS: tuple[Callable[[int, int], bytes], ...] = (zero_page, text_page, random_page, ramp_page, almost_zero_page)


def memory(n_pages: int, *, page_size: int = PAGE, seed: int = 0) -> bytearray:
    """``n_pages`` pages of all kinds in turn, half of them zero, with a long run of zeros in the middle."""
    out = bytearray(n_pages * page_size)
    for i in range(n_pages):
        if i % 2 or n_pages // 3 <= i < n_pages // 2:
            continue
        kind = KINDS[(i // 2) % len(KINDS)]
        out[i * page_size : (i + 1) * page_size] = kind(seed + i, page_size)
    return out
