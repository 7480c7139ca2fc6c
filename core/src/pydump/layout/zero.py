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
    zero = _are_zero(words[:, ::_STRIDE])
    candidates = np.flatnonzero(zero)
    if 4 * len(candidates) >= len(words):  # picking rows copies them, in more time than it saves
        return _are_zero(words)
    if len(candidates):
        zero[candidates] = _are_zero(words[candidates])
    return zero


def _are_zero(rows: NDArray[np.uint64]) -> NDArray[np.bool]:
    """For each row whether all of it is zero; `any` would first turn each word into a bool."""
    import numpy as np

    zero: NDArray[np.bool] = np.bitwise_or.reduce(rows, axis=1) == 0
    return zero
