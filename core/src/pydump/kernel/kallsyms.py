"""The kernel's own table of symbols, which VMCOREINFO leads to since Linux 6.0: names without vmlinux.

Source: kernel/kallsyms.c, scripts/kallsyms.c and kernel/vmcore_info.c of Linux 6.0 to 7.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Final

from pydump.errors import PlanError
from pydump.kernel.memory import KernelMemory
from pydump.layout.struct import prefix

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Symbols that a table is believed to have at most; a large kernel with all options has 300,000.
MAX_SYMBOLS: Final = 1 << 20
#: Bytes of all their names, compressed (that kernel has 4 MiB) and expanded.
MAX_NAMES: Final = 16 << 20
MAX_EXPANDED: Final = 64 << 20
#: Bytes of names that are read in one piece.
PIECE: Final = 1 << 16
#: The longest token table: 256 tokens of less than this many bytes.
MAX_TOKENS: Final = 256 * 64
TOKENS: Final = 256


class Kallsyms:
    """All symbols of a kernel. Names stay compressed until one is asked for: expanding all takes half a second.

    Args:
        names: The compressed names, one behind another.
        starts: Where the tokens of each begin in ``names``, shape (n,), int64.
        sizes: How many tokens each has, shape (n,), int64.
        tokens: What each token stands for, 256 of them.
    """

    def __init__(
        self, names: bytes, starts: NDArray[np.int64], sizes: NDArray[np.int64], tokens: Sequence[str]
    ) -> None:
        import numpy as np

        self._names = names
        self._starts = starts
        self._sizes = sizes
        self._tokens = tokens
        #: The vaddr of each, shape (n,), uint64.
        self.addresses: NDArray[np.uint64] = np.zeros(len(starts), np.uint64)

    def __len__(self) -> int:
        return len(self._starts)

    @cached_property
    def names(self) -> list[str]:
        """All names, in the order of the table."""
        return [self._name(i) for i in range(len(self))]

    def index(self, name: str) -> int | None:
        """Which symbol has this name, or None; static symbols of different files may share one, the first counts."""
        import numpy as np

        # Expanding those of the right length alone leaves some thousands.
        same = np.flatnonzero(self._lengths == len(name) + 1).tolist()
        return next((i for i in same if self._name(i) == name), None)

    @cached_property
    def _lengths(self) -> NDArray[np.int64]:
        """The characters of each expanded name, its type included."""
        import numpy as np

        per_token = np.array([len(token) for token in self._tokens], np.int64)
        total = np.concatenate([[0], np.cumsum(per_token[np.frombuffer(self._names, np.uint8)])])
        lengths: NDArray[np.int64] = total[self._starts + self._sizes] - total[self._starts]
        return lengths

    def address(self, name: str) -> int | None:
        """The vaddr of a symbol, or None where there is none of that name."""
        i = self.index(name)
        return None if i is None else int(self.addresses[i])

    def _name(self, i: int) -> str:
        start = int(self._starts[i])
        tokens = self._tokens
        # The first character is the symbol's type.
        return "".join([tokens[byte] for byte in self._names[start : start + int(self._sizes[i])]])[1:]

    @classmethod
    def read(cls, kernel: KernelMemory) -> Kallsyms:
        """The table of a guest's kernel.

        Raises:
            PlanError: VMCOREINFO does not lead to it, or what is there does not add up.
            ReadError: A part of it is not in the dump.
        """
        n_symbols, names, tokens, index = (
            _symbol(kernel, f"kallsyms_{name}") for name in ("num_syms", "names", "token_table", "token_index")
        )
        count = int.from_bytes(kernel.read(n_symbols, 4), kernel.byte_order)
        if not 0 < count <= MAX_SYMBOLS:
            raise _nonsense()
        found = cls(*_names(kernel, names, count), _tokens(kernel, tokens, index))
        if int(found._lengths.sum()) > MAX_EXPANDED:
            raise _nonsense()
        found.addresses = _addresses(kernel, count, found.index("_stext"))
        return found


def _nonsense() -> PlanError:
    return PlanError("the kernel's symbol table does not add up", hint="give --vmlinux FILE instead")


def _symbol(kernel: KernelMemory, name: str) -> int:
    address = kernel.symbol(name)
    if address is None:
        raise PlanError(
            f"VMCOREINFO does not name {name}",
            hint="kernels before Linux 6.0 do not say where their symbols are: give --vmlinux FILE",
        )
    return address


def _tokens(kernel: KernelMemory, table: int, index: int) -> list[str]:
    """What each byte of a compressed name stands for."""
    begins = kernel.read_array(index, f"{prefix(kernel.byte_order)}u2", TOKENS).tolist()
    longest = begins[-1] + 64
    if longest > MAX_TOKENS or begins != sorted(begins):
        raise _nonsense()
    text = kernel.read(table, longest)
    return [text[at : text.index(b"\0", at)].decode("latin-1") if b"\0" in text[at:] else "" for at in begins]


def _names(kernel: KernelMemory, vaddr: int, count: int) -> tuple[bytes, NDArray[np.int64], NDArray[np.int64]]:
    """The compressed names, and where each begins and how long it is: a length and that many tokens."""
    import numpy as np

    data = bytearray()
    heads: list[int] = []
    at = 0
    while len(heads) < count or at > len(data):
        size = min(max(PIECE, (count - len(heads)) * 12), MAX_NAMES - len(data))
        piece = _rest(kernel, vaddr + len(data), size)
        if not piece:
            raise _nonsense()
        data += piece
        at = _follow(data, at, count - len(heads), heads)
    raw = np.frombuffer(data, np.uint8)
    places = np.array(heads, np.int64)
    low = raw[places].astype(np.int64)
    wide = low >= 0x80
    high = raw[np.minimum(places + 1, len(raw) - 1)].astype(np.int64)
    return bytes(data), places + 1 + wide, np.where(wide, low & 0x7F | high << 7, low)


def _follow(data: bytearray, at: int, count: int, heads: list[int]) -> int:
    """Add where up to ``count`` names begin, from ``at`` on; returns where the next one begins.

    The chain is followed one by one, so this loop does as little as it can.
    """
    end, add = len(data) - 2, heads.append
    for _ in range(count):
        if at > end:
            break
        add(at)
        size = data[at]
        # Two bytes since 6.1, the low seven bits first.
        at += size + 1 if size < 0x80 else (size & 0x7F | data[at + 1] << 7) + 2
    return at


def _rest(kernel: KernelMemory, vaddr: int, size: int) -> bytes:
    """What can be read of a range from its start on."""
    end = vaddr
    for start, stop, _ in kernel.held(vaddr, size):
        if start > end:
            break
        end = stop
    return kernel.read(vaddr, end - vaddr)


def _addresses(kernel: KernelMemory, count: int, which: int | None) -> NDArray[np.uint64]:
    """The vaddr of each symbol: of the ways to read an offset, the one that puts ``_stext`` where it is.

    Args:
        kernel: The guest kernel's memory.
        count: How many symbols there are.
        which: Which of them is ``_stext``, or None.
    """
    import numpy as np

    order = prefix(kernel.byte_order)
    text = kernel.symbol("_stext")
    table = kernel.symbol("kallsyms_offsets")
    if table is None:
        return kernel.read_array(_symbol(kernel, "kallsyms_addresses"), kernel.word, count).astype(np.uint64)
    offsets = kernel.read_array(table, f"{order}i4", count).astype(np.int64)
    wrap = np.uint64((1 << 8 * kernel.word_size) - 1)
    readings = []
    base_at = kernel.symbol("kallsyms_relative_base")
    if base_at is not None:
        base = np.uint64(kernel.read_word(base_at))
        unsigned = offsets.astype(np.uint32).astype(np.uint64)
        readings.append(base + unsigned)
        # x86_64 with per-CPU symbols: those are absolute, and all others negative.
        absolute = np.where(offsets >= 0, unsigned, base - np.uint64(1) - offsets.view(np.uint64))
        readings.append(absolute)
    else:
        # Since 7.0 an offset counts from its own place.
        places = np.uint64(table) + np.arange(count, dtype=np.uint64) * np.uint64(4)
        readings.append(places + offsets.view(np.uint64))
    for reading in readings:
        wrapped = reading & wrap
        if text is None or which is None or int(wrapped[which]) == text:
            return wrapped
    raise _nonsense()
