"""How long and how much: every bound on what comes from QEMU's monitor and its streams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pydump_qemu_stream.elf_head import MAX_RAM
from pydump_source_qemu.watchdog import PATIENCE, Patience

#: Bytes of a line of QMP, which is one message. The largest ones, lists of memory regions, have 5 MB at most.
MAX_LINE: Final = 10 << 20
#: Bytes that QEMU sends at least of a stream while somebody waits for it as long as :class:`Limits` says.
PROGRESS: Final = 1 << 20
#: Bytes of a snapshot, whatever its guest.
MAX_SNAPSHOT: Final = 2 * MAX_RAM


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds, and bytes; tests pass less.

    Attributes:
        command: QEMU may take to answer a command.
        stream: One may wait for the next :data:`PROGRESS` bytes of QEMU's ELF stream.
        snapshot: The same for a snapshot. Before it sends anything, QEMU touches every page of the guest.
        end: QEMU may take to notice that a dump has ended or that nobody reads it.
        tail: Bytes that may come behind the RAM of a stream: the state of devices, and sections.
        close: Undoing may take before this process goes on without knowing; the watchdog stays at it.
        watchdog: The watchdog's own.
    """

    command: float = 60
    stream: float = 60
    snapshot: float = 600
    end: float = 30
    tail: int = 1 << 30
    close: float = 10
    watchdog: Patience = PATIENCE


#: What holds outside of tests.
LIMITS: Final = Limits()
