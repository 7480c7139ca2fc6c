"""Progress on standard error: a bar, lines, or JSON."""

from __future__ import annotations

import json
import select
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydump.cli.render import size
from pydump.model.progress import Progress, ProgressCallback

#: A run shorter than this many seconds draws nothing.
PATIENCE = 0.5
#: Seconds between two drawings.
INTERVAL = 0.1


@contextmanager
def shown(style: str) -> Iterator[ProgressCallback | None]:
    """A callback that shows progress in ``style`` ("auto", "bar", "plain", "json" or "none")."""
    if style == "auto":
        style = "bar" if sys.stderr.isatty() else "none"
    if style == "bar":
        with _bar() as callback:
            yield callback
    elif style in ("plain", "json"):
        yield _lines(style)
    else:
        yield None


def _is_writable() -> bool:
    """Whether writing would not block: Ctrl-S in a terminal must not prolong the pause of a guest."""
    try:
        return bool(select.select([], [sys.stderr], [], 0)[1])
    except (OSError, ValueError):  # it has no file descriptor
        return True


def _lines(style: str) -> ProgressCallback:
    state = {"next": 0.0}

    def tell(progress: Progress) -> None:
        now = time.monotonic()
        if (now < state["next"] and progress.done < progress.total) or not _is_writable():
            return
        state["next"] = now + 1
        if style == "json":
            line = json.dumps({"phase": progress.phase, "done": progress.done, "total": progress.total})
        else:
            share = 100 * progress.done // max(1, progress.total)
            line = f"pydump: {progress.phase} {share} % of {size(progress.total)}"
        print(line, file=sys.stderr, flush=True)

    return tell


@contextmanager
def _bar() -> Iterator[ProgressCallback]:
    began = time.monotonic()
    drawn = 0.0
    bar: Any = None
    tasks: dict[str, Any] = {}

    def tell(progress: Progress) -> None:
        nonlocal bar, drawn
        if not _is_writable():
            return
        if bar is None:
            if time.monotonic() - began < PATIENCE:
                return
            bar = _rich_bar()
            bar.start()
        if progress.phase not in tasks:
            tasks[progress.phase] = bar.add_task(progress.phase, total=progress.total)
        bar.update(tasks[progress.phase], completed=progress.done)
        if time.monotonic() >= drawn + INTERVAL:
            drawn = time.monotonic()
            bar.refresh()

    try:
        yield tell
    finally:
        if bar is not None:
            bar.stop()


def _rich_bar() -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        ProgressColumn,
        Task,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as RichProgress
    from rich.text import Text

    class Speed(ProgressColumn):
        """As rich's own, which counts in powers of ten."""

        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{size(int(speed))}/s" if speed else "?", style="progress.data.speed")

    return RichProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        DownloadColumn(binary_units=True),
        Speed(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        auto_refresh=False,  # the thread that does it would wait, and hold a lock meanwhile
    )
