"""What was opened is memory that does not change, or a live guest. This is the only place that asks which."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TypeGuard

from pydump.interfaces.image import MemoryImage
from pydump.interfaces.live import Capture, LiveGuest, Narrow
from pydump.model.memory import MemoryMap
from pydump.model.progress import ProgressCallback

#: What a name opens.
Input = MemoryImage | LiveGuest


def is_live(opened: Input) -> TypeGuard[LiveGuest]:
    """Whether memory may change until it is captured."""
    return isinstance(opened, LiveGuest)


def view_of(opened: Input) -> MemoryImage:
    """Memory as it is now. That of a live guest is read by the process that opened it, and no other."""
    return opened.view() if isinstance(opened, LiveGuest) else opened


def captured(
    opened: Input,
    wanted: Callable[[MemoryImage], MemoryMap],
    progress: ProgressCallback | None = None,
    narrow: Narrow | None = None,
) -> Capture:
    """A context that gives memory which does not change: as it was opened, or a live guest's once it is captured.

    Args:
        opened: What was opened.
        wanted: Given a view of a live guest, says what of its RAM will be read.
        progress: Told how far the capture is.
        narrow: Chooses what need not be captured.
    """
    if isinstance(opened, LiveGuest):
        return opened.capture(wanted(opened.view()), progress, narrow)
    return _Unchanged(opened)


class _Unchanged(Capture):
    """Memory that need not be captured."""

    holds = False
    paused_seconds = None
    consistent = True

    def __init__(self, image: MemoryImage) -> None:
        self._image = image

    def __enter__(self) -> MemoryImage:
        return self._image

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...
