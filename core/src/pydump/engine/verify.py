"""Checks a dump: every structure, every descriptor, every page."""

from __future__ import annotations

import time

from pydump.engine.batches import BATCH_SIZE, readable_runs
from pydump.errors import FormatError, ReadError
from pydump.interfaces.source import Source, Verifiable
from pydump.model.report import Progress, ProgressCallback, VerifyReport

#: Faults that are reported one by one.
MAX_FAULTS = 100


def run_verify(source: Source, label: str, *, progress: ProgressCallback | None = None) -> VerifyReport:
    """Read all of a dump back.

    Args:
        source: The dump.
        label: What the user called it.
        progress: Told how far the run is.
    """
    began = time.monotonic()
    faults = list(source.problems()) if isinstance(source, Verifiable) else []
    n_faults = len(faults)
    guest = source.guest()
    lost = source.unreadable()
    for start, end in list(lost.clip(0, 1 << 64))[:MAX_FAULTS]:
        faults.append(f"paddr {start:#x}..{end:#x}: the dump says that it is lost")
    n_faults += len(lost)
    readable = guest.memory.ranges().subtract(source.excluded()).subtract(lost)
    total, done = readable.size, 0
    buffer = memoryview(bytearray(min(BATCH_SIZE, max(1, total))))
    step = guest.page_size or 4096
    for start, end in readable_runs(readable, BATCH_SIZE):
        try:
            source.read_into(start, buffer[: end - start])
        except (ReadError, FormatError):
            for at in range(start, end, step):  # which pages is it?
                try:
                    source.read_into(at, buffer[: min(step, end - at)])
                except (ReadError, FormatError) as error:
                    n_faults += 1
                    if len(faults) < MAX_FAULTS:
                        faults.append(error.message)
        done += end - start
        if progress is not None:
            progress(Progress("verify", done, total))
    return VerifyReport(label, done, tuple(faults[:MAX_FAULTS]), n_faults, time.monotonic() - began)
