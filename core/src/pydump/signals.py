"""Puts off the signals that end a run or stop it, where that would leave things half done."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
#: What stops a process that has a terminal.
_STOPPING = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)


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


class Unstopped:
    """Somebody waits for this process: Ctrl-Z does not stop it between :meth:`hold` and :meth:`let_go`."""

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}

    @property
    def held(self) -> bool:
        """Whether it is so now."""
        return bool(self._before)

    def hold(self) -> None:
        """From now on. Signals are left alone where this is not the main thread."""
        if not self._before and threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, signal.SIG_IGN) for number in _STOPPING}

    def let_go(self) -> None:
        """No longer."""
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before = {}
