"""Tells the pages of a Linux guest apart by their struct pages: free, cache, user, poisoned, offline.

Which keys VMCOREINFO has decides how a struct page is read, never the kernel's version (but for one width on kernels
before 4.16), so that a new kernel that keeps its keys works by itself.

Source: include/linux/{mm_types,page-flags,mm,hugetlb}.h of Linux 4.5 to 7.2; kernel/vmcore_info.c for the keys.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntFlag
from typing import TYPE_CHECKING

from pydump.errors import PlanError
from pydump.kernel.memory import KernelMemory
from pydump.kernel.vmemmap import struct_page_size

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class PageClass(IntFlag):
    """What a page is used for. A page can match several; the first in this order counts."""

    FREE = 1
    UNACCEPTED = 2
    CACHE = 4
    CACHE_PRIVATE = 8
    USER = 16
    HWPOISON = 32
    OFFLINE = 64


@dataclass(frozen=True, slots=True)
class _Order:
    """Where the order of a compound page stands, in the struct page behind its head.

    Attributes:
        offset: In bytes from that struct page, None where it is the low byte of flags.
    """

    offset: int | None


@dataclass(frozen=True, slots=True)
class _Hugetlb:
    """How the head of a hugetlb page is known; at most one of these is set.

    Attributes:
        mapcount: Its own _mapcount has this value.
        flag: The flags of the struct page behind it have this mask.
        dtor: The byte at (offset, in the struct page behind it) has this value.
    """

    mapcount: int | None = None
    flag: int = 0
    dtor: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class PageRules:
    """How the struct pages of one kernel are read.

    Attributes:
        dtype: The fields of struct page that count, in native byte order: their bytes are the guest's.
        swapped: Are the guest's bytes in the other order than this machine's?
        masks: Flag masks by name: lru, private, swapcache, swapbacked, head, hwpoison, slab; 0 where there is none.
        mapcounts: Values of _mapcount by name: buddy, slab, offline, unaccepted; None where there is none.
        n_orders: Orders of free blocks are less than this: LENGTH(zone.free_area).
        order: Where the order of a compound page stands.
        hugetlb: How hugetlb pages are known.
    """

    dtype: np.dtype[np.void]
    swapped: bool
    masks: dict[str, int]
    mapcounts: dict[str, int | None]
    n_orders: int
    order: _Order
    hugetlb: _Hugetlb

    @property
    def size(self) -> int:
        """Bytes of a struct page."""
        return self.dtype.itemsize

    @classmethod
    def of(cls, kernel: KernelMemory) -> PageRules:
        """The rules for a guest's kernel.

        Raises:
            PlanError: VMCOREINFO lacks a key that the rules need; it is named.
        """
        import numpy as np

        info = kernel.info
        size = info.size("page")
        # Linux 7.1 renamed compound_head; bit 0 still marks a tail page.
        tail = info.offset("page.compound_head")
        tail = info.offset("page.compound_info") if tail is None else tail
        offsets = {
            "flags": info.offset("page.flags"),
            "mapping": info.offset("page.mapping"),
            "mapcount": info.offset("page._mapcount"),
            "private": info.offset("page.private"),
            "tail": tail,
        }
        needed = {"lru": "PG_lru", "private": "PG_private", "head": "PG_head_mask"}
        buddy = info.number("PAGE_BUDDY_MAPCOUNT_VALUE")
        keys = {"mapcount": "_mapcount", "tail": "compound_head"}
        missing = [f"OFFSET(page.{keys.get(name, name)})" for name, offset in offsets.items() if offset is None]
        missing += [f"NUMBER({key})" for key in needed.values() if info.number(key) is None]
        missing += [] if size else ["SIZE(page)"]
        missing += [] if buddy is not None else ["NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)"]
        n_orders = info.length("zone.free_area") or 0
        missing += [] if 0 < n_orders <= 64 else ["LENGTH(zone.free_area)"]
        if missing or not size:
            raise PlanError(
                f"VMCOREINFO lacks {', '.join(missing)}: this kernel's pages cannot be told apart",
                hint="filtering needs Linux 4.5 or later; leave --dump-level and --exclude out",
            )
        word = f"u{kernel.word_size}"
        formats = {"mapcount": "u4"}
        size = struct_page_size(kernel)
        dtype = kernel.struct(
            "page", size, {name: (formats.get(name, word), offset or 0) for name, offset in offsets.items()}
        )

        def bit(key: str) -> int:
            number = info.number(key)
            return 0 if number is None or not 0 <= number < 8 * kernel.word_size else 1 << number

        masks = {name: bit(f"PG_{name}") for name in ("lru", "private", "swapcache", "swapbacked", "hwpoison", "slab")}
        masks["head"] = info.number("PG_head_mask") or 0
        mapcounts = {
            name: info.number(f"PAGE_{name.upper()}_MAPCOUNT_VALUE")
            for name in ("buddy", "slab", "offline", "unaccepted")
        }
        if mapcounts["slab"] is not None:
            masks["slab"] = 0
        return cls(
            dtype,
            np.dtype(kernel.word) != np.dtype(word),
            masks,
            mapcounts,
            n_orders,
            _order(kernel, size),
            _hugetlb(kernel, size),
        )


def _misaligned(pfn: NDArray[np.uint64], order: NDArray[np.uint64]) -> NDArray[np.bool]:
    """Which pfns are not multiples of the pages that a block of their order has."""
    import numpy as np

    found: NDArray[np.bool] = pfn & ((np.uint64(1) << np.minimum(order, 63)) - np.uint64(1)) != 0
    return found


def _order(kernel: KernelMemory, size: int) -> _Order:
    info = kernel.info
    if info.number("PAGE_HUGETLB_MAPCOUNT_VALUE") is not None or info.number("PG_hugetlb") is not None:
        return _Order(None)
    offset = info.offset("folio._folio_order")
    if offset is not None:
        return _Order(_within(offset - size, size))
    offset = info.offset("page.compound_order")
    if offset is not None:
        # 16 bits wide before 4.16; an order fits into the low byte.
        return _Order(_within(offset + (kernel.byte_order == "big" and _release(info.osrelease) < (4, 16)), size))
    return _Order(None)  # Linux 6.6 to 6.8 without hugetlb pages


def _hugetlb(kernel: KernelMemory, size: int) -> _Hugetlb:
    info = kernel.info
    value = info.number("PAGE_HUGETLB_MAPCOUNT_VALUE")
    if value is not None:
        return _Hugetlb(mapcount=value)
    flag = info.number("PG_hugetlb")
    if flag is not None and 0 <= flag < 8 * kernel.word_size:
        return _Hugetlb(flag=1 << flag)
    dtor = info.number("HUGETLB_PAGE_DTOR")
    offset = info.offset("folio._folio_dtor")
    offset = info.offset("page.compound_dtor") if offset is None else offset - size
    if dtor is None or offset is None:
        return _Hugetlb()
    offset += kernel.byte_order == "big" and _release(info.osrelease) < (4, 16)
    return _Hugetlb(dtor=(_within(offset, size), dtor))


def _within(offset: int, size: int) -> int:
    """``offset``, which lies in a struct page of ``size`` bytes.

    Raises:
        PlanError: It does not.
    """
    if not 0 <= offset < size:
        raise PlanError("VMCOREINFO states offsets beyond struct page", hint="it is damaged or of another kernel")
    return offset


def _release(text: str | None) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", text or "")
    return (int(match[1]), int(match[2])) if match else (99, 0)


@dataclass(frozen=True, slots=True)
class Candidates:
    """Pages that some dump level leaves out, ascending: what each level drops follows from them.

    Attributes:
        pfn: Of the page, or of the first page of the block or compound page, shape (n,), uint64.
        classes: :class:`PageClass` bits of each, shape (n,), uint8.
        block_order: log2 of the pages of a free or unaccepted block, shape (n,), uint8.
        compound_order: log2 of the pages of a compound page, 0 of any other, shape (n,), uint8.
        odd: Pages that match a class and have a shape that cannot be, so that they are kept.
    """

    pfn: NDArray[np.uint64]
    classes: NDArray[np.uint8]
    block_order: NDArray[np.uint8]
    compound_order: NDArray[np.uint8]
    odd: int = 0


class Classifier:
    """Applies the rules to struct pages, many at a time.

    Args:
        rules: How they are read.
    """

    def __init__(self, rules: PageRules) -> None:
        import numpy as np

        self._rules = rules
        self._word = rules.dtype["flags"]
        # Constants are swapped, not memory: of a guest of the other byte order each test stays one pass.
        self._masks = {name: self._of(mask) for name, mask in rules.masks.items()}
        self._one = self._of(1)
        self._marks = self._of(rules.masks["lru"] | rules.masks["swapcache"] | rules.masks["hwpoison"])
        self._head = self._masks["head"]
        self._values = {name: self._value(value) for name, value in rules.mapcounts.items()}
        self._hugetlb = self._value(rules.hugetlb.mapcount)
        # A compound page may be hugetlb, and nothing in its head says so in older kernels.
        watched = ("buddy", "offline", "unaccepted")
        self._watched = [value for name in watched if (value := self._values[name]) is not None]
        if self._hugetlb is not None:
            self._watched.append(self._hugetlb)
        elif rules.hugetlb.flag or rules.hugetlb.dtor:
            self._marks |= self._head
        self._native = np.dtype(self._word)

    def _of(self, value: int) -> np.unsignedinteger:
        """A word's value as the guest's bytes read here."""
        import numpy as np

        number = np.array([value & (1 << 8 * self._word.itemsize) - 1], self._word)
        return (number.byteswap() if self._rules.swapped else number)[0]  # type: ignore[no-any-return]

    def _value(self, value: int | None) -> np.uint32 | None:
        import numpy as np

        if value is None:
            return None
        number = np.array([value & 0xFFFFFFFF], np.uint32)
        return (number.byteswap() if self._rules.swapped else number)[0]  # type: ignore[no-any-return]

    def _read(self, values: NDArray[np.unsignedinteger]) -> NDArray[np.uint64]:
        """Values of the guest as numbers."""
        import numpy as np

        return (values.byteswap() if self._rules.swapped else values).astype(np.uint64)

    def classify(self, pfn: int, data: memoryview, count: int, valid: NDArray[np.bool] | None = None) -> Candidates:
        """What the struct pages in ``data`` say.

        Args:
            pfn: Of the first one.
            data: The struct pages, and after the last one that counts one more where there is one.
            count: How many count.
            valid: Which of them could be read, shape (count or count + 1,); None for all.
        """
        import numpy as np

        n_read = len(data) // self._rules.size
        pages = np.frombuffer(data, self._rules.dtype, n_read)
        flags, mapcount = pages["flags"][:count], pages["mapcount"][:count]
        chosen = (flags & self._marks) != 0
        chosen |= (pages["mapping"][:count] & self._one) != 0
        for value in self._watched:
            chosen |= mapcount == value
        chosen &= (pages["tail"][:count] & self._one) == 0
        if valid is not None:
            chosen &= valid[:count]
        at = np.flatnonzero(chosen)
        picked = pages[at]
        return self._decide(np.uint64(pfn) + at.astype(np.uint64), at, picked, data, n_read, valid)

    def _decide(
        self,
        pfn: NDArray[np.uint64],
        at: NDArray[np.intp],
        picked: NDArray[np.void],
        data: memoryview,
        n_read: int,
        valid: NDArray[np.bool] | None,
    ) -> Candidates:
        """The classes and orders of the few that passed the first test."""
        import numpy as np

        flags, mapcount = picked["flags"], picked["mapcount"]

        def has(name: str) -> NDArray[np.bool]:
            found: NDArray[np.bool] = (flags & self._masks[name]) != 0
            return found

        def counts(name: str) -> NDArray[np.bool]:
            value = self._values[name]
            return mapcount == value if value is not None else np.zeros(len(picked), np.bool)

        slab = counts("slab") | has("slab")
        anon = ((picked["mapping"] & self._one) != 0) & ~slab
        head = has("head")
        order, hugetlb = self._compound(at, head, mapcount, data, n_read, valid)
        order = np.where((order >= 64) | _misaligned(pfn, order), 0, order)
        backed = has("swapbacked") if self._rules.masks["swapbacked"] else np.True_
        cache = (has("lru") | has("swapcache") & backed) & ~anon
        private = has("private")
        block = self._read(picked["private"])
        buddy = counts("buddy") & ~slab
        odd = buddy & ((block >= self._rules.n_orders) | _misaligned(pfn, block))
        unaccepted = counts("unaccepted")
        classes = (buddy & ~odd) * np.uint8(PageClass.FREE)
        classes |= unaccepted * np.uint8(PageClass.UNACCEPTED)
        classes |= (cache & ~private) * np.uint8(PageClass.CACHE)
        classes |= (cache & private) * np.uint8(PageClass.CACHE_PRIVATE)
        classes |= (anon | hugetlb) * np.uint8(PageClass.USER)
        classes |= has("hwpoison") * np.uint8(PageClass.HWPOISON)
        classes |= (counts("offline") & ~slab) * np.uint8(PageClass.OFFLINE)
        blocks = np.where(unaccepted, np.uint64(self._rules.n_orders - 1), np.minimum(block, 63))
        kept = classes != 0
        return Candidates(
            pfn[kept],
            classes[kept],
            blocks[kept].astype(np.uint8),
            order[kept].astype(np.uint8),
            int(np.count_nonzero(odd)),
        )

    def _compound(
        self,
        at: NDArray[np.intp],
        head: NDArray[np.bool],
        mapcount: NDArray[np.uint32],
        data: memoryview,
        n_read: int,
        valid: NDArray[np.bool] | None,
    ) -> tuple[NDArray[np.uint64], NDArray[np.bool]]:
        """The order of each compound page (0 of any other page), and whether it is a hugetlb page."""
        import numpy as np

        rules = self._rules
        order = np.zeros(len(at), np.uint64)
        hugetlb = np.zeros(len(at), np.bool) if self._hugetlb is None else mapcount == self._hugetlb
        heads = np.flatnonzero(head & (at + 1 < n_read))
        if valid is not None:
            behind = at[heads] + 1
            known = behind < len(valid)
            known[known] = valid[behind[known]]
            heads = heads[known]
        second = (at[heads] + 1) * rules.size
        raw = np.frombuffer(data, np.uint8)
        pages = np.frombuffer(data, rules.dtype, n_read)
        flags = self._read(pages["flags"][at[heads] + 1])
        order[heads] = flags & np.uint64(0xFF) if rules.order.offset is None else raw[second + rules.order.offset]
        if rules.hugetlb.flag:
            hugetlb[heads] |= flags & np.uint64(rules.hugetlb.flag) != 0
        elif rules.hugetlb.dtor is not None:
            offset, value = rules.hugetlb.dtor
            hugetlb[heads] |= raw[second + offset] == value
        return order, hugetlb
