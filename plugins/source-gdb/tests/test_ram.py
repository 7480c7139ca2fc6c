"""Where RAM is."""

from __future__ import annotations

import pytest

from gdb_stub import FLAT_VIEW
from pydump.errors import PlanError, SourceError
from pydump_source_gdb.ram import MAX_PARTS, flat_view_ram, stated_ram


def test_what_the_user_writes() -> None:
    memory = stated_ram("4G-0x140000000,0-512M")
    assert [(block.paddr, block.end) for block in memory] == [(0, 512 << 20), (4 << 30, 5 << 30)]


@pytest.mark.parametrize("text", ["0", "1G-0", "1G-1G", "0-1G,512M-2G", "a-b", "0-1G,", "-", "0-99999999999999999999"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(PlanError):
        stated_ram(text)


def test_the_ram_of_a_flat_view() -> None:
    blocks = [(block.paddr, block.size) for block in flat_view_ram(FLAT_VIEW)]
    assert blocks == [(0x1000, 0x1000), (0x80000000, 0x10000)]
    assert not flat_view_ram("unknown command: 'info mtree'\n")


def test_more_ram_than_any_guest_has_is_not_believed() -> None:
    head = 'FlatView #0\n AS "memory", root: system\n'
    line = "  {:016x}-{:016x} (prio 0, ram): ram\n"
    with pytest.raises(SourceError):
        flat_view_ram(head + line.format(0, 1 << 62))
    with pytest.raises(SourceError):
        flat_view_ram(head + "".join(line.format(n << 16, (n << 16) + 15) for n in range(MAX_PARTS + 1)))
