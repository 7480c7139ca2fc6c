"""Streams put together from their description: pages that come again, records of each kind, damage.

Source: migration/{savevm,ram}.c of QEMU 7.2 and 10.0.
"""

from __future__ import annotations

import struct
import zlib

import pytest

from pydump.errors import DamagedPageError, PydumpError
from pydump_qemu_stream.blocks import MappedBlock, StreamedBlock
from pydump_qemu_stream.vmdesc import decode, read_description
from pydump_qemu_stream.xbzrle import apply
from stream_samples import backing, content, indexed

PAGE = 4096
N = 600
HEAD = struct.pack(">II", 0x5145564D, 3)
START = b"\x01" + struct.pack(">I", 2) + b"\x03ram" + struct.pack(">II", 0, 4)
PART = b"\x02" + struct.pack(">I", 2)
END = b"\x03" + struct.pack(">I", 2)
FOOTER = b"\x7e" + struct.pack(">I", 2)
EOS = struct.pack(">Q", 0x10)
BLOCKS = struct.pack(">Q", N * PAGE | 4) + b"\x03ram" + struct.pack(">Q", N * PAGE)


def page(number: int) -> bytes:
    return struct.pack("<Q", 1 + number) * 512


def plain(number: int, data: bytes | None = None, *, again: bool = True) -> bytes:
    name = b"" if again else b"\x03ram"
    return struct.pack(">Q", number * PAGE | 8 | 0x20 * again) + name + (page(number) if data is None else data)


def filled(number: int, byte: int = 0) -> bytes:
    return struct.pack(">QB", number * PAGE | 2 | 0x20, byte)


def delta(number: int, data: bytes) -> bytes:
    return struct.pack(">QBH", number * PAGE | 0x40 | 0x20, 1, len(data)) + data


def packed(number: int, data: bytes) -> bytes:
    body = zlib.compress(data)
    return struct.pack(">QI", number * PAGE | 0x100 | 0x20, len(body)) + body


def stream(*records: bytes, end: bytes = END + EOS + FOOTER + b"\0") -> bytes:
    return HEAD + START + BLOCKS + EOS + FOOTER + PART + plain(0, again=False) + b"".join(records) + EOS + FOOTER + end


def memory(data: bytes) -> tuple[StreamedBlock, PydumpError | EOFError | None]:
    file = backing(data)
    walked, index, error = indexed(file)
    block = index.list[0]
    return StreamedBlock(file, block, index.runs(block), complete=walked.ended), error


def read(block: StreamedBlock, number: int, count: int = 1) -> bytes:
    buffer = bytearray(b"\xee" * (count * PAGE))
    block.read_into(number * PAGE, memoryview(buffer))
    return bytes(buffer)


def test_a_page_that_comes_again_has_its_last_content() -> None:
    other = b"\x55" * PAGE
    data = stream(
        *map(plain, range(1, N)), *(plain(i, other) for i in range(5, 300, 7)), filled(9), plain(12), plain(9)
    )
    block, error = memory(data)
    assert error is None
    expected = [other if 5 <= i < 300 and i % 7 == 5 else page(i) for i in range(N)]
    expected[12], expected[9] = page(12), page(9)
    assert read(block, 0, N) == b"".join(expected)


def test_every_kind_of_record() -> None:
    changed = bytearray(page(3))
    changed[100:104] = b"new!"
    twice = bytearray(changed)
    twice[0:2] = b"ab"
    twice[4000:4001] = b"c"
    data = stream(
        *map(plain, range(1, 5)),
        *map(filled, range(5, 100)),
        filled(100, 0x77),
        packed(101, page(101)),
        delta(3, b"\x64\x04new!"),
        struct.pack(">Q", 0x200),  # RAM_SAVE_FLAG_MULTIFD_FLUSH
        delta(3, b"\x00\x02ab" + b"\x9e\x1f\x01c"),
    )
    block, error = memory(data)
    assert error is None
    assert read(block, 1, 3) == page(1) + page(2) + bytes(twice)
    assert read(block, 5, 95) == bytes(95 * PAGE)
    assert read(block, 100, 2) == b"\x77" * PAGE + page(101)
    assert read(block, 102, 2) == bytes(2 * PAGE)  # never sent, and the stream is complete
    assert [*block.data_ranges(0, N * PAGE)] == [(0, 5 * PAGE), (100 * PAGE, 102 * PAGE)]
    assert not block.lost()
    assert (block.place(2 * PAGE + 5), block.place(6 * PAGE), block.place(3 * PAGE)) == (
        data.index(page(2)) + 5, None, None,
    )  # fmt: skip


def test_a_delta_after_zeros_and_a_page_after_a_delta() -> None:
    data = stream(filled(1), delta(1, b"\x02\x01x"), plain(2), delta(2, b"\x00\x01y"), plain(2))
    block, _ = memory(data)
    assert read(block, 1, 2) == b"\0\0x" + bytes(PAGE - 3) + page(2)


def test_a_cut_stream_holds_what_came_before() -> None:
    data = stream(*map(plain, range(1, N)))
    block, error = memory(data[: data.index(page(300)) + 10])
    assert isinstance(error, EOFError)
    assert list(block.lost()) == [(300 * PAGE, N * PAGE)]
    assert read(block, 299, 2) == page(299) + bytes(PAGE)


def test_a_damaged_record_ends_the_walk_and_keeps_what_came_before() -> None:
    data = bytearray(stream(*map(plain, range(1, N))))
    at = data.index(page(300)) - 8
    data[at : at + 8] = struct.pack(">Q", 0x420)
    block, error = memory(bytes(data))
    assert "unknown kind 0x420" in str(error)
    assert list(block.lost()) == [(300 * PAGE, N * PAGE)]


@pytest.mark.parametrize(
    "record",
    [
        delta(1, b"\x00\x00"), delta(1, b"\xff\xff\x01x"), delta(1, b"\x01\x05abc"), delta(1, b"\x80"),
        delta(1, b"\xff\x1f\x02xx"), packed(1, page(1)[:-1]), packed(1, page(1) + b"x"),
        packed(1, page(1)).replace(zlib.compress(page(1))[:2], b"\0\0"),
    ],
)  # fmt: skip
def test_a_page_that_cannot_be_unpacked_is_the_only_one_that_is_lost(record: bytes) -> None:
    block, error = memory(stream(record, plain(2)))
    assert error is None
    with pytest.raises(DamagedPageError) as caught:
        read(block, 0, 3)
    assert caught.value.paddr == PAGE
    assert read(block, 0) + read(block, 2) == page(0) + page(2)


def test_a_delta_may_end_in_a_run_that_stays() -> None:
    content = bytearray(b"abc")
    apply(b"\x01\x01X\x01", content)
    assert content == b"aXc"


def test_a_stream_that_may_migrate_by_postcopy_states_large_pages() -> None:
    """Source: ram_save_setup: a block's page size follows where it is not the host's."""
    data = stream(plain(1)).replace(BLOCKS, BLOCKS + struct.pack(">Q", 2 << 20))
    block, error = memory(data)
    assert error is None
    assert read(block, 1) == page(1)


def device(section: int, name: bytes, body: bytes, kind: int = 4) -> bytes:
    head = bytes([kind]) + struct.pack(">I", section) + bytes([len(name)]) + name + struct.pack(">II", 0, 1)
    return head + body + b"\x7e" + struct.pack(">I", section)


def test_devices_are_found_whatever_their_states_hold() -> None:
    tricky = b"\x7e\0\0\0\x07\x00\x7e\0\0\0\x07\x04\0\0\0\x08\x00\x7e\0\0\0\x07\x02\0\0\0\x09"
    description = b'{"devices": []}'
    tail = b"\x06" + struct.pack(">I", len(description)) + description
    devices = device(7, b"timer", tricky) + device(8, b"cpu", b"x" * 5000000) + device(9, b"apic", b"")
    file = backing(stream(end=END + EOS + FOOTER + devices + b"\0" + tail + b"behind it"))
    walked, _, error = indexed(file)
    assert error is None
    assert [(d.name, d.end - d.start) for d in walked.devices] == [
        ("timer", len(tricky)),
        ("cpu", 5000000),
        ("apic", 0),
    ]
    assert walked.description == description


def test_a_description_that_does_not_fit_is_refused() -> None:
    fields = [{"name": "a", "type": "uint32", "size": 4}, {"name": "b", "type": "uint8", "array_len": 3, "size": 1}]
    part = {"vmsd_name": "cpu/x", "version": 1, "fields": [{"name": "c", "type": "int32 le", "size": 4}]}
    described = {"fields": fields, "subsections": [part]}
    body = b"\0\0\0\7abc" + b"\x05\x05cpu/x\0\0\0\1\0\0\1\0"
    state = decode(described, body)
    assert (state.number("a"), state.numbers("b"), state.part("cpu/x").number("c")) == (7, [97, 98, 99], 256)
    for wrong in (body[:-1], body + b"x", body.replace(b"cpu/x", b"cpu/y")):
        with pytest.raises(PydumpError):
            decode(described, wrong)
    endless: dict[str, object] = {"fields": [{"name": "a", "struct": {}, "array_len": 1 << 60}]}
    nested: dict[str, object] = {"fields": [{"name": "a", "size": 0, "array_len": 1000}]}
    for _ in range(8):
        nested = {"fields": [{"name": "a", "array_len": 1000, "struct": nested}]}
    for hostile in (endless, nested):
        with pytest.raises(PydumpError):
            decode(hostile, b"")
    for text in (b"{", b"[]", b'{"devices": 1}', b'{"devices": [{}]}', b"[" * 100000):
        with pytest.raises(PydumpError):
            read_description(text)


def test_mapped_ram_of_a_big_endian_host() -> None:
    """Its bitmap is of words of 64 bits, written as they are. Source: ram_save_file_bmap in migration/ram.c."""
    data = bytearray(content("x86_64-10-mappedram"))
    file = backing(bytes(data))
    _, index, _ = indexed(file)
    # A block whose last word has bits to spare tells the order: pc.rom has 32 pages.
    block = next(block for block in index.list if block.name == "/rom@etc/acpi/tables")
    assert block.mapped is not None
    at = block.mapped.bitmap_offset
    before = bytes(data[at : at + 8])
    assert any(before)
    data[at : at + 8] = before[::-1]
    swapped = backing(bytes(data))
    assert [*MappedBlock(file, block).data_ranges(0, block.size)] == [
        *MappedBlock(swapped, block).data_ranges(0, block.size)
    ]


def test_mapped_ram_of_a_file_that_was_cut() -> None:
    data = content("x86_64-10-mappedram")
    _, index, _ = indexed(backing(data))
    block = index.list[0]
    assert block.mapped is not None
    cut = backing(data[: block.mapped.pages_offset + 0x100000])
    _, cut_index, error = indexed(cut)
    assert isinstance(error, EOFError)
    assert cut_index.list == [block]
    memory = MappedBlock(cut, block)
    assert memory.lost().size
    buffer = bytearray(block.size)
    memory.read_into(0, memoryview(buffer))
    whole = bytearray(block.size)
    MappedBlock(backing(data), block).read_into(0, memoryview(whole))
    assert buffer[:0x100000] == whole[:0x100000]
    assert not any(buffer[0x100000:])
