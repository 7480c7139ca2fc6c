"""The table of pages that a kdump has written: all that was added is found, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pydump_format_kdump import dedup
from pydump_format_kdump.dedup import WrittenPages


def entries(n: int, *, low_bits: int = 63, high_bits: int = 63) -> NDArray[Any]:
    """Pages as they are added: distinct digests, of so many bits in each half, and where the page would be."""
    dice = np.random.default_rng(n)
    halves = [dice.integers(0, 1 << bits, 4 * n + 64, dtype=np.uint64) for bits in (low_bits, high_bits)]
    digests = np.unique(np.stack(halves, axis=1), axis=0)
    chosen = dice.permutation(digests)[:n]
    assert len(chosen) == n
    return np.hstack([chosen, dice.integers(1, 1 << 40, (n, 2), dtype=np.uint64)])


@pytest.mark.parametrize(
    ("n", "low_bits", "high_bits"),
    [(100_000, 63, 63), (600, 4, 63), (100_000, 63, 20), (2000, 16, 1)],
    ids=["random", "crowded buckets", "no bits to tell them by", "twice the same first half"],
)
def test_all_that_was_added_is_found(n: int, low_bits: int, high_bits: int) -> None:
    there, strange = np.split(entries(2 * n, low_bits=low_bits, high_bits=high_bits), 2)
    table = WrittenPages(n)
    for at in range(0, n, 997):
        assert not table.find(there[at : at + 997]).any()
        table.add(there[at : at + 997])
        assert np.array_equal(table.entries(table.find(there[at : at + 997])), there[at : at + 997])
    assert np.array_equal(table.entries(table.find(there)), there)
    assert not table.find(strange).any()


def test_pages_of_one_bucket() -> None:
    there = entries(300)
    there[:, 0] = 7
    table = WrittenPages(1000)
    table.add(there)
    assert np.array_equal(table.entries(table.find(there)), there)


def test_more_than_fit_are_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dedup, "MAX_PAGES", 1000)
    there = entries(3000)
    table = WrittenPages(3000)
    for at in range(0, 3000, 300):
        table.add(there[at : at + 300])
    found = table.find(there)
    assert found[:1000].all()
    assert not found[1000:].any()
    assert np.array_equal(table.entries(found[:1000]), there[:1000])


def test_it_is_as_large_as_documented() -> None:
    assert dedup.MAX_PAGES * 4096 == 12 << 30
    assert len(WrittenPages(1 << 40)._map) == (160 << 20) + 64


def test_none() -> None:
    table = WrittenPages(0)
    table.add(entries(0))
    assert not len(table.find(entries(0)))
    assert not table.find(entries(3)).any()
