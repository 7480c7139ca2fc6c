"""Memory maps and sets of ranges, against a Python set of addresses."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pydump.model.memory import PADDR_END, MemoryMap, RamBlock, Ranges

TOP = 64  # addresses of the small worlds below

pairs = st.lists(st.tuples(st.integers(0, TOP), st.integers(0, TOP)), max_size=8)
points = st.integers(0, TOP)


def addresses(ranges: Iterable[tuple[int, int]]) -> set[int]:
    return {address for start, end in ranges for address in range(start, end)}


def check(ranges: Ranges, expected: set[int]) -> None:
    """It holds ``expected``, in its one canonical form: ascending, not empty, not touching."""
    listed = list(ranges)
    assert addresses(listed) == expected
    assert all(start < end for start, end in listed)
    assert all(left[1] < right[0] for left, right in pairwise(listed))
    assert ranges.array.dtype == np.uint64
    assert ranges.array.shape == (len(ranges), 2)
    assert (len(ranges), bool(ranges), ranges.size) == (len(listed), bool(listed), len(expected))


class TestRanges:
    @given(pairs)
    def test_of_pairs_in_any_order(self, a: list[tuple[int, int]]) -> None:
        check(Ranges.of(a), addresses(a))

    @given(pairs)
    def test_of_a_sorted_array(self, a: list[tuple[int, int]]) -> None:
        array = np.array(sorted(pair for pair in a if pair[0] < pair[1]), dtype=np.int64).reshape(-1, 2)
        check(Ranges.of_array(array), addresses(a))

    @given(pairs, pairs)
    def test_union_subtract_intersect(self, a: list[tuple[int, int]], b: list[tuple[int, int]]) -> None:
        one, other = Ranges.of(a), Ranges.of(b)
        check(one.union(other), addresses(a) | addresses(b))
        check(one.subtract(other), addresses(a) - addresses(b))
        check(one.intersect(other), addresses(a) & addresses(b))
        check(one, addresses(a))  # and neither has changed
        check(other, addresses(b))

    @given(pairs, pairs)
    def test_clips_of_many_windows(self, a: list[tuple[int, int]], windows: list[tuple[int, int]]) -> None:
        found = list(Ranges.of(a).clips(windows))
        assert len(found) == len(windows)
        for runs, (start, end) in zip(found, windows, strict=True):
            check(Ranges.of(runs), addresses(a) & set(range(start, end)))
            assert runs == list(Ranges.of(runs))

    @given(pairs, points, points)
    def test_clip(self, a: list[tuple[int, int]], start: int, end: int) -> None:
        whole = Ranges.of(a)
        check(whole.clip(start, end), addresses(a) & set(range(start, end)))
        check(whole, addresses(a))

    @given(pairs, st.sampled_from([1, 2, 4, 8, 16]))
    def test_page_aligned(self, a: list[tuple[int, int]], page_size: int) -> None:
        pages = {address // page_size for address in addresses(a)}
        check(
            Ranges.of(a).page_aligned(page_size),
            addresses((page * page_size, (page + 1) * page_size) for page in pages),
        )

    @given(pairs, pairs)
    def test_equality_and_hash(self, a: list[tuple[int, int]], b: list[tuple[int, int]]) -> None:
        one, other = Ranges.of(a), Ranges.of(b)
        assert (one == other) == (addresses(a) == addresses(b))
        if one == other:
            assert hash(one) == hash(other)

    def test_it_equals_nothing_else(self) -> None:
        assert Ranges.of([(1, 2)]) != [(1, 2)]

    def test_empty(self) -> None:
        check(Ranges.empty(), set())
        check(Ranges.empty().union(Ranges.empty()), set())
        check(Ranges.empty().subtract(Ranges.of([(0, 4)])), set())

    def test_many_ranges_come_out_as_ints(self) -> None:
        many = Ranges.of((2 * i, 2 * i + 1) for i in range(10000))
        listed = list(many)
        assert listed == [(2 * i, 2 * i + 1) for i in range(10000)]
        assert {type(number) for pair in listed for number in pair} == {int}

    def test_repr_shows_the_first_four(self) -> None:
        assert repr(Ranges.of([(0x10, 0x20)])) == "Ranges(0x10..0x20)"
        assert repr(Ranges.of((i, i + 1) for i in range(0, 10, 2))).endswith("0x6..0x7, …)")

    @pytest.mark.parametrize("start", [PADDR_END - 8192, PADDR_END - 4097, PADDR_END - 2])
    def test_near_the_end_of_the_address_space_one_byte_is_missing(self, start: int) -> None:
        top = Ranges.of([(start, PADDR_END)])
        assert list(top) == [(start, PADDR_END - 1)]
        assert list(top.clip(0, PADDR_END)) == [(start, PADDR_END - 1)]
        assert list(top.subtract(Ranges.of([(0, start + 1)]))) == [(start + 1, PADDR_END - 1)][: PADDR_END - start - 2]
        assert list(top.page_aligned(4096)) == [(start & ~4095, PADDR_END - 1)]

    def test_the_last_byte_alone_is_no_range(self) -> None:
        assert not Ranges.of([(PADDR_END - 1, PADDR_END)])

    def test_all_of_the_address_space(self) -> None:
        everything = Ranges.of([(0, PADDR_END)])
        assert everything.size == PADDR_END - 1
        assert list(everything.subtract(Ranges.of([(1 << 63, (1 << 63) + 1)]))) == [
            (0, 1 << 63),
            ((1 << 63) + 1, PADDR_END - 1),
        ]


blocks = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=8)


def laid_out(gaps_and_sizes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """``(paddr, size)`` pairs that do not overlap; some touch, some are empty."""
    out, at = [], 0
    for gap, size in gaps_and_sizes:
        out.append((at + gap, size))
        at += gap + size
    return out


class TestMemoryMap:
    @given(blocks, st.randoms(use_true_random=False))
    def test_of_pairs_in_any_order(self, gaps_and_sizes: list[tuple[int, int]], random: object) -> None:
        expected = [pair for pair in laid_out(gaps_and_sizes) if pair[1]]
        shuffled = list(laid_out(gaps_and_sizes))
        random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis does not name its class
        memory = MemoryMap.of(shuffled)
        held = addresses((paddr, paddr + size) for paddr, size in expected)
        assert [(block.paddr, block.size) for block in memory] == expected
        assert (len(memory), bool(memory), memory.size) == (len(expected), bool(expected), len(held))
        assert (memory.start, memory.end) == (min(held, default=0), max(held, default=-1) + 1)
        check(memory.ranges(), held)

    @given(blocks, points)
    def test_find(self, gaps_and_sizes: list[tuple[int, int]], paddr: int) -> None:
        memory = MemoryMap.of(laid_out(gaps_and_sizes))
        holder = next((block for block in memory if paddr in range(block.paddr, block.end)), None)
        assert memory.find(paddr) == holder

    @given(blocks, points, points)
    def test_clip(self, gaps_and_sizes: list[tuple[int, int]], begin: int, length: int) -> None:
        memory = MemoryMap.of(laid_out(gaps_and_sizes))
        window = set(range(begin, begin + length))
        check(memory.clip(begin, length).ranges(), addresses(memory.ranges()) & window)

    @given(blocks, st.sampled_from([1, 4, 16]))
    def test_max_mapnr_counts_a_partial_page(self, gaps_and_sizes: list[tuple[int, int]], page_size: int) -> None:
        memory = MemoryMap.of(laid_out(gaps_and_sizes))
        pages = {address // page_size for address in addresses(memory.ranges())}
        assert memory.max_mapnr(page_size) == max(pages, default=-1) + 1

    def test_touching_blocks_stay_two(self) -> None:
        memory = MemoryMap.of([(0, 4096), (4096, 4096)])
        assert len(memory) == 2
        assert list(memory.ranges()) == [(0, 8192)]

    @pytest.mark.parametrize("ranges", [[(0, 5), (4, 2)], [(0, 5), (0, 5)], [(0, 10), (3, 2)]])
    def test_blocks_that_overlap_are_refused(self, ranges: list[tuple[int, int]]) -> None:
        with pytest.raises(ValueError, match="overlap"):
            MemoryMap.of(ranges)

    def test_blocks_out_of_order_are_refused(self) -> None:
        with pytest.raises(ValueError, match="out of order"):
            MemoryMap((RamBlock(4096, 1), RamBlock(0, 1)))

    @pytest.mark.parametrize(("paddr", "size"), [(-1, 2), (0, 0), (0, -1), (PADDR_END, 1), (PADDR_END - 1, 2)])
    def test_blocks_that_cannot_be_are_refused(self, paddr: int, size: int) -> None:
        with pytest.raises(ValueError, match="no such RAM block"):
            RamBlock(paddr, size)

    def test_a_block_may_reach_the_end_of_the_address_space(self) -> None:
        memory = MemoryMap.of([(PADDR_END - 4096, 4096)])
        assert (memory.end, memory.max_mapnr(4096)) == (PADDR_END, 1 << 52)
        assert memory.find(PADDR_END - 1) == memory.blocks[0]
