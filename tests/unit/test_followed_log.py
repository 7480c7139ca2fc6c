"""Kernel logs that are read while the kernel logs, made up by ``kernel_logs``."""

from __future__ import annotations

import random

import pytest

from kernel_logs import COMMITTED, DESCRIPTORS, FINALIZED, MACHINES, Memory, Records, Ring
from pydump.errors import PlanError
from pydump.kernel import follow
from pydump.kernel.follow import Follower, News
from pydump.kernel.memory import PhysicalMemory


@pytest.fixture(params=MACHINES, ids=lambda m: f"{m[0]}-{8 * m[1]}")
def ring(request: pytest.FixtureRequest) -> Ring:
    return Ring(*request.param)


def texts(news: News) -> list[str]:
    return [record.text for record in news.records]


def test_each_record_comes_once_and_what_was_overwritten_is_counted(ring: Ring) -> None:
    """Looks come between one record and hundreds, so that the ring wraps several times in between."""
    follower = Follower(ring.kernel())
    ring.log("record 0")
    assert texts(follower.look()) == ["record 0"]
    dice = random.Random(ring.word_size)
    seen, n_lost, logged = [0], 0, 1
    for _ in range(300):
        for _ in range(dice.choice((0, 1, 2, 20, 150))):
            ring.log(f"record {logged} " + "." * dice.randrange(40))
            logged += 1
        news = follower.look()
        assert news.overwritten is not None and not news.more
        n_lost += news.overwritten
        seen += [record.seq for record in news.records]
        assert texts(news) == [text for _, _, text in ring.kept][len(ring.kept) - len(news.records) :]
        assert len(seen) + n_lost == logged
    assert seen == sorted(set(seen)) and 0 < n_lost < logged


def test_a_look_reads_only_what_is_new(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = ring.kernel()
    follower = Follower(kernel)
    for i in range(20):
        ring.log(f"record {i}")
    sizes: list[int] = []
    read_into = PhysicalMemory.read_into

    def counted(self: PhysicalMemory, paddr: int, buffer: memoryview) -> None:
        sizes.append(len(buffer))
        read_into(self, paddr, buffer)

    monkeypatch.setattr(PhysicalMemory, "read_into", counted)
    assert len(follower.look().records) == 20
    assert max(sizes) <= 20 * 88
    sizes.clear()
    assert follower.look() == News()
    assert sum(sizes) <= 10 * ring.word_size
    ring.log("one more")
    sizes.clear()
    assert texts(follower.look()) == ["one more"]
    assert sum(sizes) <= 88 + 40 * ring.word_size


def test_a_long_log_comes_in_pieces(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "AT_ONCE", 8)
    follower = Follower(ring.kernel())
    for i in range(20):
        ring.log(f"record {i}")
    looks = [follower.look() for _ in range(4)]
    assert [(len(news.records), news.more) for news in looks] == [(8, True), (8, True), (4, False), (0, False)]
    assert [text for news in looks for text in texts(news)] == [f"record {i}" for i in range(20)]


@pytest.mark.parametrize("state", [0, COMMITTED])
def test_a_record_is_waited_for_until_it_is_final(ring: Ring, state: int) -> None:
    """Reserved: it is being written. Committed: it may be continued."""
    follower = Follower(ring.kernel())
    ring.log("first")
    ring.log("begun", state=state)
    assert texts(follower.look()) == ["first"]
    assert follower.look() == News()
    number = ring.kept[-1][0]
    at = DESCRIPTORS + number % 32 * 3 * ring.word_size
    ring.put(at, "P", FINALIZED << 8 * ring.word_size - 2 | number)
    ring.log("last")
    assert texts(follower.look()) == ["begun", "last"]


def test_a_record_that_is_overwritten_while_it_is_read_is_not_given(
    ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guest logs between the look at a record's descriptor and that at its text."""
    follower = Follower(ring.kernel())
    ring.log("first")
    follower.look()
    for i in range(10):
        ring.log(f"record {i}")
    rows = follow.Ring.rows

    def interrupted(self: follow.Ring, first: int, n: int) -> object:
        found = rows(self, first, n)
        for i in range(30):
            ring.log(f"newer {i}")
        return found

    monkeypatch.setattr(follow.Ring, "rows", interrupted)
    news = follower.look()
    monkeypatch.undo()
    assert news.overwritten and len(news.records) + news.overwritten == 10
    assert set(texts(news)) <= {f"record {i}" for i in range(10)}
    later = follower.look()
    assert later.overwritten is not None
    assert len(later.records) + later.overwritten == 30
    assert texts(later)[-1] == "newer 29"


@pytest.mark.parametrize("first", [-32, 0])
def test_a_ring_whose_numbers_go_back_is_an_error(ring: Ring, first: int) -> None:
    """Those of descriptors, or of records: 0 comes after -12, where the kernel's first ring begins with -32."""
    follower = Follower(ring.kernel())
    for i in range(20):
        ring.log(f"record {i}")
    follower.look()
    ring.data[:] = Ring(ring.byte_order, ring.word_size).data
    ring.next_id, ring.seq = first & ring.id_mask, 0
    ring.kept.clear()
    for i in range(20 if first == 0 else 3):
        ring.log(f"new {i}")
    with pytest.raises(PlanError, match="the kernel log begins anew"):
        follower.look()


@pytest.mark.parametrize("machine", MACHINES, ids=lambda m: f"{m[0]}-{8 * m[1]}")
def test_a_record_buffer_is_followed_as_well(machine: tuple[str, int]) -> None:
    """Of Linux before 5.10: its records have no numbers, so how many were overwritten is not known."""
    buffer: Memory = Records(*machine, "printk_log")  # type: ignore[arg-type]
    assert isinstance(buffer, Records)
    follower = Follower(buffer.kernel())
    assert follower.look() == News()
    logged = 0
    for step, lost in ((3, 0), (0, 0), (1, 0), (12, 0), (200, None), (2, 0)):
        for _ in range(step):
            buffer.log(f"record {logged}")
            logged += 1
        news = follower.look()
        assert news.overwritten == lost
        expected = [f"record {i}" for i in range(logged - step, logged)]
        assert texts(news) == (expected if lost == 0 else [text for _, text in buffer.kept])
