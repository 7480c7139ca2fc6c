"""Which pages are all zeros, at the speed of memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Distance in 8-byte words between the words of a page that are looked at first.
_STRIDE = 64


def zero_pages(data: bytes | bytearray | memoryview, page_size: int) -> NDArray[np.bool]:
    """For each page of ``data`` whether all its bytes are zero.

    A few words of each page are looked at first; only pages where those are zero are read whole.

    Args:
        data: A whole number of pages.
        page_size: Bytes, a multiple of 8.
    """
    import numpy as np

    words = np.frombuffer(data, np.uint64).reshape(-1, page_size // 8)
    zero: NDArray[np.bool] = np.logical_not(words[:, ::_STRIDE].any(axis=1))
    candidates = np.flatnonzero(zero)
    if len(candidates) == len(words):
        zero = np.logical_not(words.any(axis=1))
    elif len(candidates):
        # In pieces: picking rows copies them.
        for at in range(0, len(candidates), 64):
            rows = candidates[at : at + 64]
            zero[rows] = np.logical_not(words[rows].any(axis=1))
    return zero
