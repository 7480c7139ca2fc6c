"""The image of the Windows kernel in guest memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from pydump.errors import PydumpError

if TYPE_CHECKING:
    from pydump.kernel.memory import KernelMemory

#: Bytes that are searched at once, and the farthest that a kernel's image reaches below its interrupt handlers.
WINDOW: Final = 1 << 20
FARTHEST: Final = 64 << 20
#: An image of more bytes than this is not believed.
MAX_IMAGE: Final = 64 << 20
#: Machine and the optional header's magic of a kernel's image, by its bits.
#: Source: Microsoft's "PE Format", COFF file header and optional header.
_MACHINES: Final = {64: (0x8664, 0x20B), 32: (0x14C, 0x10B)}


@dataclass(frozen=True, slots=True)
class Image:
    """The kernel's image.

    Attributes:
        base: The vaddr where it begins.
        bits: 64 or 32.
        data: Its bytes; what is not mapped, or not in the source, is zero.
    """

    base: int
    bits: int
    data: bytes

    @property
    def end(self) -> int:
        """One past its last vaddr."""
        return self.base + len(self.data)


def find_image(kernel: KernelMemory, idt_base: int, bits: int) -> Image | None:
    """The image that holds the handler of interrupt 0.

    Args:
        kernel: The kernel's memory.
        idt_base: The vaddr of a CPU's interrupt descriptor table.
        bits: 64 or 32.
    """
    try:
        gate = kernel.read(idt_base, 12 if bits == 64 else 8)
    except PydumpError:
        return None
    # Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 3, figures 6-2 and 6-8.
    handler = int.from_bytes(gate[:2] + gate[6:8] + gate[8:], "little")
    top = (handler | 0xFFF) + 1
    for end in range(top, max(top - FARTHEST, 0), -WINDOW):
        start = max(end - WINDOW, 0)
        data = _read(kernel, start, end - start)
        firsts = np.frombuffer(data, "<u2")[:: 4096 // 2]
        for page in np.flatnonzero(firsts == int.from_bytes(b"MZ", "little"))[::-1].tolist():
            base = start + page * 4096
            size = _image_size(kernel, base, bits)
            if size is not None and base <= handler < base + size:
                return Image(base, bits, _read(kernel, base, size))
    return None


def _image_size(kernel: KernelMemory, base: int, bits: int) -> int | None:
    """Bytes of the image that begins at ``base``, or None where it is not one of a kernel of so many bits."""
    head = _read(kernel, base, 4096)
    pe = int.from_bytes(head[0x3C:0x40], "little")
    machine, magic = _MACHINES[bits]
    if pe > 4096 - 84 or head[pe : pe + 6] != b"PE\0\0" + machine.to_bytes(2, "little"):
        return None
    size = int.from_bytes(head[pe + 80 : pe + 84], "little")
    right = int.from_bytes(head[pe + 24 : pe + 26], "little") == magic
    return size if right and 4096 <= size <= MAX_IMAGE else None


def _read(kernel: KernelMemory, vaddr: int, size: int) -> bytes:
    """``size`` bytes from ``vaddr`` on; what is not mapped, or not in the source, is zero."""
    buffer = bytearray(size)
    for start, end, paddr in kernel.held(vaddr, size):
        try:
            kernel.physical.read_into(paddr, memoryview(buffer)[start - vaddr : end - vaddr])
        except PydumpError:  # a damaged page
            continue
    return bytes(buffer)
