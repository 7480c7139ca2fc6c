"""Physical memory through OpenOCD's monitor: its packets read virtual memory, as the target's MMU maps it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from pydump.model.guest import ByteOrder

#: Bytes that a command reads at most; OpenOCD takes up to 64 KiB.
MOST: Final = 4096


class Monitor(Protocol):
    """What has a monitor."""

    def monitor(self, command: str) -> str | None:
        """What a command prints, or None where it fails."""


@dataclass(frozen=True, slots=True)
class Openocd:
    """OpenOCD's ``read_memory ADDRESS WIDTH COUNT phys``, which is there since 0.12.

    Source: target_jim_read_memory in src/target/target.c of OpenOCD.

    Attributes:
        stub: Has its monitor.
        byte_order: The target's.
    """

    stub: Monitor
    byte_order: ByteOrder

    @classmethod
    def of(cls, stub: Monitor) -> Openocd | None:
        """The command of an OpenOCD that has it."""
        if "read_memory" not in (stub.monitor("info commands read_memory") or ""):
            return None
        endian = stub.monitor("[target current] cget -endian") or ""
        return cls(stub, "big" if endian.strip() == "big" else "little")

    def read(self, paddr: int, size: int) -> bytes:
        """Up to ``size`` bytes at ``paddr``; empty where they cannot be read."""
        size = min(size, MOST)
        width = 1 if (paddr | size) % 4 else 4
        text = self.stub.monitor(f"read_memory {paddr:#x} {8 * width} {size // width} phys") or ""
        data = numbers(text, width, self.byte_order)
        return data if len(data) == size else b""


def numbers(text: str, width: int, byte_order: ByteOrder) -> bytes:
    """The memory that a list of hexadecimal numbers stands for; empty where it is not such a list.

    Args:
        text: The list: ``0x3020100 0x7060504``.
        width: Bytes of a number in memory.
        byte_order: Of a number in memory.
    """
    try:
        values = [int(word, 16) for word in text.split()]
        return np.array(values, f"{'>' if byte_order == 'big' else '<'}u{width}").tobytes()
    except (ValueError, OverflowError):
        return b""
