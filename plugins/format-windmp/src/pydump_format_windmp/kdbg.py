"""The data block that Windows keeps for kernel debuggers (KDBG): finding it in the kernel's image, and decoding it.

Windows 8 and later keep it encoded. Each of its 64-bit words is stored as E, of which the plain word is

    bswap(rol(E ^ never, never) ^ address) ^ always

where ``never`` and ``always`` are random numbers of the boot and ``address`` is that of a variable: symbols say where
they are. None is needed: the rotation and the byte swap keep XOR, so that the plain word is ``bswap(rol(E, n)) ^ key``
with one ``n`` and one ``key`` for all words. Two words are known, the tag with the size, and the base of the kernel,
and they follow each other: the XOR of the two encoded ones shows where the block is and what ``n`` is, and either
gives ``key``.

Source: QEMU's contrib/elf2dmp/main.c, kdbg_decode.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from pydump.errors import PydumpError
from pydump_format_windmp.layout import KdDebuggerData64

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from pydump.kernel.memory import KernelMemory
    from pydump_format_windmp.image import Image

    Words = NDArray[np.uint64]

OWNER_TAG: Final = int.from_bytes(KdDebuggerData64().owner_tag, "little")
#: The sizes that the block can have: 0x208 of Windows XP at least, 0x380 of Windows 10.
LEAST_SIZE: Final = 0x208
MOST_SIZE: Final = 0x500
#: Number of the word with the tag and the size.
_TAG_WORD: Final = KdDebuggerData64.offset_of("owner_tag") // 8


@dataclass(frozen=True, slots=True)
class Kdbg:
    """The debugger's data block.

    Attributes:
        vaddr: Where it lies.
        data: Its bytes, decoded.
        encoded: Whether guest memory holds it encoded.
    """

    vaddr: int
    data: bytes
    encoded: bool

    @property
    def fields(self) -> KdDebuggerData64:
        """Its fields; those that a shorter block of an older Windows lacks are 0."""
        return KdDebuggerData64.unpack(self.data.ljust(KdDebuggerData64.nbytes(), b"\0"), "little")


def read_kdbg(kernel: KernelMemory, vaddr: int) -> Kdbg | None:
    """The block at ``vaddr`` where it is not encoded, or None."""
    try:
        head = kernel.read(vaddr, 8 * (_TAG_WORD + 1))
        size = int.from_bytes(head[-4:], "little")
        if int.from_bytes(head[-8:-4], "little") != OWNER_TAG or not LEAST_SIZE <= size <= MOST_SIZE:
            return None
        return Kdbg(vaddr, kernel.read(vaddr, size), encoded=False)
    except PydumpError:
        return None


def find_kdbg(image: Image) -> Kdbg | None:
    """The block within the image of the kernel, or None."""
    words = np.frombuffer(image.data, "<u8", len(image.data) // 8)
    mask = (1 << image.bits) - 1
    # A 32-bit Windows extends the sign of its addresses to 64 bits, or not.
    bases = {image.base, image.base | (1 << 64) - (1 << image.bits)}
    for base in bases:
        for at, data, encoded in _blocks(words, base):
            found = Kdbg(image.base + 8 * at, data, encoded)
            fields = found.fields
            known = (fields.ps_loaded_module_list, fields.ps_active_process_head, fields.ki_processor_block)
            if all(image.base <= address & mask < image.end for address in known):
                return found
    return None


def _blocks(words: Words, base: int) -> Iterator[tuple[int, bytes, bool]]:
    """Blocks among the words of an image: the number of the first word, the decoded bytes, and whether encoded."""
    tags = words[_TAG_WORD:-1] & np.uint64(0xFFFFFFFF) == np.uint64(OWNER_TAG)
    for at in np.flatnonzero(tags & (words[_TAG_WORD + 1 :] == np.uint64(base))).tolist():
        size = int(words[at + _TAG_WORD]) >> 32
        if LEAST_SIZE <= size <= MOST_SIZE and at + size // 8 <= len(words):
            yield at, words[at : at + -(-size // 8)].tobytes()[:size], False
    # The XOR of the word with the tag and that with the base, as it is encoded with each rotation, for each size.
    sizes = np.arange(LEAST_SIZE, MOST_SIZE + 1, 4, dtype=np.uint64)
    plain = ((sizes << np.uint64(32)) | np.uint64(OWNER_TAG)) ^ np.uint64(base)
    targets = np.concatenate([_rol(plain.byteswap(), 64 - n) for n in range(64)])
    order = np.argsort(targets)
    both = words[_TAG_WORD:-1] ^ words[_TAG_WORD + 1 :]
    which = np.minimum(np.searchsorted(targets[order], both), len(targets) - 1)
    for at in np.flatnonzero(targets[order][which] == both).tolist():
        rotation, number = divmod(int(order[which[at]]), len(sizes))
        size = int(sizes[number])
        if at + -(-size // 8) <= len(words):
            block = words[at : at + -(-size // 8)]
            tag = np.uint64(size << 32 | OWNER_TAG)
            key = tag ^ _rol(block[_TAG_WORD : _TAG_WORD + 1], rotation).byteswap()
            yield at, (_rol(block, rotation).byteswap() ^ key).tobytes()[:size], True


def _rol(words: Words, n: int) -> Words:
    """Each word rotated left by ``n`` bits."""
    n %= 64
    return words << np.uint64(n) | words >> np.uint64(64 - n) if n else words
