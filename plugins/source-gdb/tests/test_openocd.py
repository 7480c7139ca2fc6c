"""What OpenOCD's ``read_memory`` prints."""

from __future__ import annotations

import pytest

from pydump_source_gdb.openocd import numbers


def test_numbers_are_memory_in_the_byte_order_of_the_target() -> None:
    # "[target current] cget -endian" is little, and memory holds 00 01 02 ...: what OpenOCD 0.12 prints.
    assert numbers("0x3020100 0x7060504\n", 4, "little") == bytes(range(8))
    assert numbers("0x10203 0x4050607", 4, "big") == bytes(range(8))
    assert numbers("0x0 0xff", 1, "little") == b"\0\xff"


@pytest.mark.parametrize("text", ["", "read_memory: failed to read memory", "0x100000000", "-0x1", "0x1" * 2000])
def test_what_is_not_a_list_of_numbers_is_no_memory(text: str) -> None:
    assert numbers(text, 4, "little") == b""
