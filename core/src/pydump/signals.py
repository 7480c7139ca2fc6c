"""Puts off the signals that end a run, where ending it would leave things half done."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)


@contextlib.contextmanager
def put_off() -> Iterator[None]:
    """Put off SIGINT, SIGTERM, SIGHUP and SIGALRM to the end of the block.

    Masking them would not do: another thread may get them, and the handler runs in the main one all the same.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in _ENDING}
    try:
        for number in _ENDING:
            signal.signal(number, lambda number, _: came.append(number))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        for late in came:
            signal.raise_signal(late)
