"""Kernel logs of dumps, made up by ``kernel_logs``."""

from __future__ import annotations

import pytest

from kernel_logs import COMMITTED, FINALIZED, MACHINES, REUSABLE, TEXTS, Records, Ring
from pydump.errors import PydumpError
from pydump.kernel.log import Record, format_record


@pytest.fixture(params=MACHINES, ids=lambda m: f"{m[0]}-{8 * m[1]}")
def ring(request: pytest.FixtureRequest) -> Ring:
    return Ring(*request.param)


@pytest.mark.parametrize("records", [1, 5, 31, 32, 33, 200, 1000])
def test_a_ring_gives_the_records_that_it_still_holds(records: int, ring: Ring) -> None:
    """Their numbers and places pass the end of a word, as in the first minutes of every kernel."""
    for i in range(records):
        ring.log(f"record {i} " + "." * (i * 7 % 40))
    found = ring.read()
    assert [record.text for record in found] == [text for _, _, text in ring.kept]
    assert [record.seq for record in found] == list(range(records - len(ring.kept), records))
    assert len(found) == records or records > 25
    assert found[-1].nanoseconds == (records - 1) * 1_500_000


def test_what_is_known_of_a_record(ring: Ring) -> None:
    ring.log("one\ntwo \x1b[2J", level=3, caller=0x80000001)
    ring.log("", caller=77)
    first, second = ring.read()
    assert first == Record(0, 0, "one\ntwo \\x1b[2J", 3, "C1", (("subsystem", "pci"), ("device", "+pci:0000:00:01.0")))
    assert (second.text, second.caller) == ("", "T77")
    assert format_record(first) == "[    0.000000] one\n               two \\x1b[2J"


def test_records_that_are_not_whole_are_left_out(ring: Ring) -> None:
    for i, state in enumerate((FINALIZED, 0, COMMITTED, REUSABLE, FINALIZED)):
        ring.log(f"record {i}", state=state)
    assert [record.text for record in ring.read()] == ["record 0", "record 2", "record 4"]


def test_a_text_that_another_has_overwritten_is_left_out(ring: Ring) -> None:
    """A guest that was stopped while it logged: the new text is there, its descriptor is not yet."""
    for i in range(4):
        ring.log(f"record {i}")
    ring.put(TEXTS + ring.kept[1][1] % 1024, "P", 12345)
    assert [record.text for record in ring.read()] == ["record 0", "record 2", "record 3"]


@pytest.fixture(params=["printk_log", "log"], ids=["linux-3.11-to-5.9", "linux-3.5-to-3.10"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=MACHINES, ids=lambda m: f"{m[0]}-{8 * m[1]}")
def buffer(request: pytest.FixtureRequest, kind: str) -> Records:
    return Records(*request.param, kind)


@pytest.mark.parametrize("records", [1, 5, 30, 31, 40, 500])
def test_a_record_buffer_gives_the_records_that_it_still_holds(records: int, buffer: Records) -> None:
    for i in range(records):
        buffer.log(f"record {i} " + "." * (i * 11 % 60))
    found = buffer.read()
    assert [record.text for record in found] == [text for _, text in buffer.kept]
    assert 10 < len(found) < records or records <= 30


def test_a_record_has_a_level_and_a_dictionary(buffer: Records) -> None:
    buffer.log("probed", b"SUBSYSTEM=pci\0DEVICE=+pci:0000:00:01.0\0", level=4)
    assert buffer.read() == [
        Record(0, 6_000_000_000, "probed", 4, "", (("SUBSYSTEM", "pci"), ("DEVICE", "+pci:0000:00:01.0")))
    ]


def test_a_record_that_runs_over_the_end_is_an_error(buffer: Records) -> None:
    buffer.log("fine")
    buffer.log("damaged")
    buffer.put(TEXTS + buffer.kept[0][0] + 8, "H", 0xFFF0)
    with pytest.raises(PydumpError, match="the record is damaged"):
        buffer.read()
