"""VMCOREINFO as real kernels wrote it.

What is expected stands in the texts of ``tests/data/vmcoreinfo``, where each line can be looked up.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pydump.model.vmcoreinfo import Vmcoreinfo

DATA = Path(__file__).parents[1] / "data" / "vmcoreinfo"
ARCHES = sorted(path.stem for path in DATA.glob("*.txt"))


def of(arch: str) -> Vmcoreinfo:
    return Vmcoreinfo((DATA / f"{arch}.txt").read_bytes())


X86_64 = of("x86_64")
AARCH64 = of("aarch64")
I386 = of("i386")


@pytest.mark.parametrize("arch", ARCHES)
def test_every_line_is_an_entry(arch: str) -> None:
    info = of(arch)
    keys = info.keys()
    lines = info.text.decode("ascii").splitlines()
    assert [f"{key}={info.get(key)}" for key in keys] == lines
    assert info.page_size == int(str(info.get("PAGESIZE")))
    assert info.osrelease == info.get("OSRELEASE")
    assert info.symbol("init_uts_ns") == int(str(info.get("SYMBOL(init_uts_ns)")), 16)


def test_release_and_page_size() -> None:
    assert (AARCH64.osrelease, AARCH64.page_size) == ("6.1.0-50-arm64", 4096)
    assert (I386.osrelease, I386.page_size) == ("6.1.0-50-686", 4096)


def test_numbers_are_signed_decimal() -> None:
    assert X86_64.number("phys_base") == -375390208
    assert X86_64.number("PAGE_BUDDY_MAPCOUNT_VALUE") == -129
    assert X86_64.number("KERNEL_IMAGE_SIZE") == 1073741824
    assert X86_64.number("NR_FREE_PAGES") == 0


def test_numbers_with_0x_are_hexadecimal() -> None:
    assert AARCH64.number("kimage_voffset") == 0xFFFFA835A1400000
    assert AARCH64.number("PHYS_OFFSET") == 0x40000000
    assert AARCH64.number("TCR_EL1_T1SZ") == 0x10
    assert AARCH64.number("VA_BITS") == 48


def test_symbols_are_hexadecimal_without_a_prefix() -> None:
    assert X86_64.symbol("init_top_pgt") == 0xFFFFFFFFA1E10000
    assert I386.symbol("swapper_pg_dir") == 0xC3E74000
    assert X86_64.hexadecimal("KERNELOFFSET") == 0x1F400000
    assert AARCH64.hexadecimal("KERNELOFFSET") == 0x2835D9600000


def test_sizes_offsets_and_lengths_are_decimal() -> None:
    assert I386.size("page") == 40
    assert I386.offset("uts_namespace.name") == 0
    assert X86_64.offset("latched_seq.val") == 8
    assert X86_64.length("node_data") == 1024


def test_what_is_not_there_is_none() -> None:
    assert X86_64.get("SYMBOL(nothing)") is None
    assert "SYMBOL(nothing)" not in X86_64
    assert "OSRELEASE" in X86_64
    for look_up in (X86_64.symbol, X86_64.number, X86_64.size, X86_64.offset, X86_64.length, X86_64.hexadecimal):
        assert look_up("nothing") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"NUMBER(n)=-0x10\n", -16),
        (b"NUMBER(n)=0XfF\n", 255),
        (b"NUMBER(n)=+7", 7),
        (b"NUMBER(n)=1\nNUMBER(n)=2\n", 2),  # the last one counts
        (b"NUMBER(n)=\n", None),
        (b"NUMBER(n)=0x\n", None),
        (b"NUMBER(n)=12ab\n", None),
        (b"NUMBER(n)=1.5\n", None),
        (b"NUMBER(n)=" + b"9" * 10000, None),
        (b"NUMBER(n)\n", None),
        (b"=5\nNUMBER(n)=5", 5),
        (b"NUMBER(n)=5\n" + bytes(100), 5),  # a note padded with zeros
        (b"\xff\xfe=\x80\nNUMBER(n)=5\n", 5),
        (b"", None),
    ],
)
def test_odd_text(text: bytes, expected: int | None) -> None:
    assert Vmcoreinfo(text).number("n") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"65536", 65536),
        (b"512", 512),
        (b"0", None),
        (b"-4096", None),
        (b"256", None),
        (b"4095", None),
        (b"12288", None),
        (b"2097152", None),
        (b"18446744073709551616", None),
        (b"page", None),
    ],
)
def test_page_sizes_that_cannot_be_are_none(text: bytes, expected: int | None) -> None:
    assert Vmcoreinfo(b"PAGESIZE=" + text + b"\n").page_size == expected


def test_it_is_its_text() -> None:
    assert Vmcoreinfo(b"A=1\n") == Vmcoreinfo(b"A=1\n")
    assert Vmcoreinfo(b"A=1\n") != Vmcoreinfo(b"A=1\n\0")
    assert len({Vmcoreinfo(b"A=1\n"), Vmcoreinfo(b"A=1\n")}) == 1


def test_it_crosses_processes() -> None:
    copy = pickle.loads(pickle.dumps(X86_64))
    assert copy == X86_64
    assert copy.number("phys_base") == X86_64.number("phys_base")


@given(st.binary(max_size=400))
def test_any_bytes_can_be_asked(text: bytes) -> None:
    info = Vmcoreinfo(b"PAGESIZE=" + text)
    assert info.page_size is None or info.page_size & (info.page_size - 1) == 0
    keys = info.keys()
    for key in keys:
        assert info.get(key) is not None
        assert info.hexadecimal(key) is None or isinstance(info.hexadecimal(key), int)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"0xffffffffffffffff", (1 << 64) - 1),
        (b"18446744073709551615", (1 << 64) - 1),
        (b"0x10000000000000000", None),
        (b"18446744073709551616", None),
        (b"-9223372036854775808", -(1 << 63)),
        (b"-9223372036854775809", None),
        (b"x", None),
        (b"1_0", None),
        (b" 5", None),
        ("٣".encode(), None),
    ],
)
def test_a_number_has_64_bits(text: bytes, expected: int | None) -> None:
    assert Vmcoreinfo(b"NUMBER(n)=" + text).number("n") == expected


def test_a_text_without_end_has_the_entries_of_its_first_64_kib() -> None:
    """No kernel's is longer than a page; a hostile one may fill a note of any size with keys."""
    text = b"OSRELEASE=6.1\n" + b"".join(b"%x=\n" % i for i in range(1 << 21))
    assert len(text) > 10 << 20
    info = Vmcoreinfo(text)
    assert info.osrelease == "6.1"
    assert len(info.keys()) < 20_000
    assert info.text == text


@pytest.mark.parametrize("separator", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\r"])
def test_only_a_newline_ends_a_line(separator: str) -> None:
    info = Vmcoreinfo(f"OSRELEASE=6.1{separator}PAGESIZE=4096\n".encode())
    assert info.page_size is None
    assert info.osrelease == f"6.1{separator}PAGESIZE=4096"
