"""KUSER_SHARED_DATA: the page that Windows maps at a fixed address, with its version and its clocks.

Source: Microsoft's ntddk.h, KUSER_SHARED_DATA; QEMU's contrib/elf2dmp/main.c for SuiteMask and ProductType.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pydump.errors import PydumpError

if TYPE_CHECKING:
    from pydump.kernel.memory import KernelMemory

#: Where it is mapped.
ADDRESSES: Final = {64: 0xFFFFF78000000000, 32: 0xFFDF0000}
#: Bytes that are read.
_SIZE: Final = 0x2D4
#: The major versions of Windows NT from 2000 on.
_VERSIONS: Final = range(5, 11)


@dataclass(frozen=True, slots=True)
class SharedData:
    """What it says.

    Attributes:
        build: NtBuildNumber; 0 before Windows 10.
        product_type: NtProductType.
        suite_mask: SuiteMask.
        system_time: SystemTime, in units of 100 ns since 1601.
        up_time: InterruptTime, in units of 100 ns since the start.
    """

    build: int
    product_type: int
    suite_mask: int
    system_time: int
    up_time: int


def read_shared_data(kernel: KernelMemory, bits: int) -> SharedData | None:
    """Read it, or None where what lies there is not of Windows."""
    try:
        data = kernel.read(ADDRESSES[bits], _SIZE)
    except PydumpError:
        return None

    def number(offset: int, size: int = 4) -> int:
        return int.from_bytes(data[offset : offset + size], "little")

    # NtMajorVersion, and NtSystemRoot, such as C:\Windows.
    if number(0x26C) not in _VERSIONS or data[0x32:0x36] != ":\\".encode("utf-16-le"):
        return None
    # The checked build has the highest bits set.
    return SharedData(number(0x260) & 0xFFFF, number(0x264), number(0x2D0), number(0x14, 8), number(0x08, 8))
