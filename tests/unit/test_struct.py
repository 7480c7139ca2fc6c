"""Declared structs, against bytes written down by hand and the sizes and offsets of the ELF specification."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pydump.layout import elf
from pydump.layout.struct import I32, I64, U8, U16, U32, U64, Bytes4, Layout
from pydump.model.guest import ByteOrder


class Sample(Layout):
    """One field of each kind, none where C would put it."""

    a: U8 = 0
    b: U16 = 0
    c: U32 = 0
    d: U64 = 0
    e: I32 = 0
    f: I64 = 0
    g: Bytes4 = b""


VALUE = Sample(0x01, 0x0203, 0x04050607, 0x08090A0B0C0D0E0F, -2, -3, b"ab")
BIG = bytes.fromhex("01 0203 04050607 08090a0b0c0d0e0f fffffffe fffffffffffffffd 61620000")
LITTLE = bytes.fromhex("01 0302 07060504 0f0e0d0c0b0a0908 feffffff fdffffffffffffff 61620000")
BYTES: dict[ByteOrder, bytes] = {"big": BIG, "little": LITTLE}
READ_BACK = Sample(VALUE.a, VALUE.b, VALUE.c, VALUE.d, VALUE.e, VALUE.f, b"ab\0\0")


@pytest.mark.parametrize("byte_order", BYTES)
class TestByteOrder:
    def test_pack(self, byte_order: ByteOrder) -> None:
        assert VALUE.pack(byte_order) == BYTES[byte_order]

    @pytest.mark.parametrize("buffer", [bytes, bytearray, memoryview])
    def test_unpack(self, byte_order: ByteOrder, buffer: Any) -> None:
        assert Sample.unpack(buffer(BYTES[byte_order]), byte_order) == READ_BACK
        assert Sample.unpack(buffer(b"...." + BYTES[byte_order] + b"."), byte_order, 4) == READ_BACK

    def test_table(self, byte_order: ByteOrder) -> None:
        table = np.frombuffer(BYTES[byte_order] * 3, Sample.dtype(byte_order))
        assert table.itemsize == Sample.nbytes()
        assert [tuple(row) for row in table.tolist()] == [(*BYTES_AS_VALUES, b"ab")] * 3

    @pytest.mark.parametrize("missing", [1, 4, 31])
    def test_too_short(self, byte_order: ByteOrder, missing: int) -> None:
        with pytest.raises(ValueError, match=f"Sample needs 31 bytes, {31 - missing} are there"):
            Sample.unpack(BYTES[byte_order], byte_order, missing)

    @pytest.mark.parametrize("offset", [-1, 32, 1 << 64])
    def test_outside(self, byte_order: ByteOrder, offset: int) -> None:
        with pytest.raises(ValueError, match="Sample needs 31 bytes"):
            Sample.unpack(BYTES[byte_order], byte_order, offset)

    @pytest.mark.parametrize(
        "value",
        [
            Sample(a=256),
            Sample(b=-1),
            Sample(c=1 << 32),
            Sample(d=1 << 64),
            Sample(e=1 << 31),
            Sample(f=-(1 << 63) - 1),
            Sample(g=b"abcde"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, byte_order: ByteOrder, value: Sample) -> None:
        with pytest.raises(ValueError, match="Sample"):
            value.pack(byte_order)


BYTES_AS_VALUES = (VALUE.a, VALUE.b, VALUE.c, VALUE.d, VALUE.e, VALUE.f)


@given(
    st.builds(
        Sample,
        a=st.integers(0, 0xFF),
        b=st.integers(0, 0xFFFF),
        c=st.integers(0, 0xFFFFFFFF),
        d=st.integers(0, (1 << 64) - 1),
        e=st.integers(-(1 << 31), (1 << 31) - 1),
        f=st.integers(-(1 << 63), (1 << 63) - 1),
        g=st.binary(min_size=4, max_size=4),
    ),
    st.sampled_from(["little", "big"]),
)
def test_there_and_back(value: Sample, byte_order: ByteOrder) -> None:
    assert Sample.unpack(value.pack(byte_order), byte_order) == value


def test_fields_follow_each_other() -> None:
    assert Sample.nbytes() == 31
    assert Sample.describe() == (
        (0, 1, "a"), (1, 2, "b"), (3, 4, "c"), (7, 8, "d"), (15, 4, "e"), (19, 8, "f"), (27, 4, "g"),
    )  # fmt: skip
    assert [Sample.offset_of(name) for name in "abcdefg"] == [0, 1, 3, 7, 15, 19, 27]
    with pytest.raises(KeyError):
        Sample.offset_of("h")


@pytest.mark.parametrize(
    ("struct", "size", "offsets"),
    [
        # Source: System V ABI, chapters 4 and 5, and the ELF-64 object file format.
        (elf.Ident, 16, {"ei_class": 4, "ei_data": 5, "ei_version": 6, "ei_osabi": 7}),
        (elf.Elf64Ehdr, 64, {"e_type": 16, "e_entry": 24, "e_phoff": 32, "e_shoff": 40, "e_ehsize": 52, "e_phnum": 56}),
        (elf.Elf32Ehdr, 52, {"e_type": 16, "e_entry": 24, "e_phoff": 28, "e_shoff": 32, "e_ehsize": 40, "e_phnum": 44}),
        (elf.Elf64Phdr, 56, {"p_flags": 4, "p_offset": 8, "p_paddr": 24, "p_filesz": 32, "p_align": 48}),
        (elf.Elf32Phdr, 32, {"p_flags": 24, "p_offset": 4, "p_paddr": 12, "p_filesz": 16, "p_align": 28}),
        (elf.Elf64Shdr, 64, {"sh_flags": 8, "sh_offset": 24, "sh_size": 32, "sh_info": 44, "sh_entsize": 56}),
        (elf.Elf32Shdr, 40, {"sh_flags": 8, "sh_offset": 16, "sh_size": 20, "sh_info": 28, "sh_entsize": 36}),
        (elf.Nhdr, 12, {"n_namesz": 0, "n_descsz": 4, "n_type": 8}),
    ],
)
def test_elf_headers_lie_as_specified(struct: type[Layout], size: int, offsets: dict[str, int]) -> None:
    assert struct.nbytes() == size
    assert {name: struct.offset_of(name) for name in offsets} == offsets
