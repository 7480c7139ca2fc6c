"""ELF notes, against what QEMU wrote and bytes written down by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pydump.layout.notes import MAX_NOTES, desc_offset, pack_note, pack_notes, read_notes, unpack_notes
from pydump.model.guest import ByteOrder
from pydump.model.note import Note

DATA = Path(__file__).parents[1] / "data" / "notes"
BIG_ENDIAN = {"s390x", "bare-s390x", "ppc64", "bare-ppc64"}
GUESTS = sorted(path.parent.name for path in DATA.glob("*/notes.bin"))

LITTLE = bytes.fromhex("05000000 06000000 02000000") + b"CORE\0\0\0\0" + b"abcdef\0\0"
BIG = bytes.fromhex("00000005 00000006 00000002") + b"CORE\0\0\0\0" + b"abcdef\0\0"
BY_HAND: dict[ByteOrder, bytes] = {"little": LITTLE, "big": BIG}
CORE = Note("CORE", 2, b"abcdef")

names = st.text(st.characters(max_codepoint=255, exclude_characters="\0"), max_size=20)
notes = st.lists(st.builds(Note, names, st.integers(0, 0xFFFFFFFF), st.binary(max_size=40)), max_size=6)
byte_orders = st.sampled_from(list(BY_HAND))


@pytest.mark.parametrize("guest", GUESTS)
def test_what_qemu_wrote_comes_back_byte_for_byte(guest: str) -> None:
    data = (DATA / guest / "notes.bin").read_bytes()
    byte_order: ByteOrder = "big" if guest in BIG_ENDIAN else "little"
    found = unpack_notes(data, byte_order)
    # Each guest has two CPUs, each with an NT_PRSTATUS (1); QEMU's own notes are of type 0.
    assert [note.type for note in found if note.name == "CORE"].count(1) == 2
    assert {note.name for note in found} <= {"CORE", "LINUX", "QEMU"}
    assert all(note.type == 0 for note in found if note.name == "QEMU")
    assert pack_notes(found, byte_order) == data
    assert unpack_notes(memoryview(data), byte_order) == found


def test_qemu_has_notes_of_both_byte_orders() -> None:
    assert set(GUESTS) > BIG_ENDIAN


@pytest.mark.parametrize("byte_order", BY_HAND)
def test_by_hand(byte_order: ByteOrder) -> None:
    assert pack_note(CORE, byte_order) == BY_HAND[byte_order]
    assert unpack_notes(BY_HAND[byte_order] * 2, byte_order) == (CORE, CORE)


@pytest.mark.parametrize("byte_order", BY_HAND)
def test_a_last_note_may_lack_its_padding(byte_order: ByteOrder) -> None:
    assert unpack_notes(BY_HAND[byte_order][:-2], byte_order) == (CORE,)


@pytest.mark.parametrize("zeros", [1, 4, 11, 12, 13, 4096])
def test_zeros_after_the_last_note_are_ignored(zeros: int) -> None:
    assert unpack_notes(LITTLE + bytes(zeros), "little") == (CORE,)


@pytest.mark.parametrize("tail", [b"\x01", b"\0\0\0\x01", bytes(12) + b"\x01", bytes(64) + b"x"])
def test_other_bytes_after_the_last_note_are_not(tail: bytes) -> None:
    with pytest.raises(ValueError, match=r"bytes at offset 0x[0-9a-f]+ are not a note"):
        unpack_notes(LITTLE + tail, "little")
    assert read_notes(LITTLE + tail, "little")[0] == (CORE,)


def test_nothing_holds_no_note() -> None:
    assert unpack_notes(b"", "little") == ()


@pytest.mark.parametrize("length", range(12, 26))
def test_a_note_cut_off_is_an_error(length: int) -> None:
    with pytest.raises(ValueError, match="the note at offset 0x1c claims 5 \\+ 6 bytes"):
        unpack_notes(LITTLE + LITTLE[:length], "little")
    assert read_notes(LITTLE + LITTLE[:length], "little")[0] == (CORE,)


@pytest.mark.parametrize("field", [0, 4])
def test_sizes_near_the_limit_are_an_error(field: int) -> None:
    for size in (0xFFFFFFFF, 0xFFFFFFFC, 0x80000000):
        data = bytearray(LITTLE)
        data[field : field + 4] = size.to_bytes(4, "little")
        with pytest.raises(ValueError, match="claims"):
            unpack_notes(bytes(data), "little")


@pytest.mark.parametrize("byte_order", BY_HAND)
@pytest.mark.parametrize("zeros", [4, 8, 12, 360, 1 << 20])
def test_zeros_between_notes_are_passed_over(byte_order: ByteOrder, zeros: int) -> None:
    data = BY_HAND[byte_order] + bytes(zeros) + BY_HAND[byte_order] + bytes(zeros) + BY_HAND[byte_order]
    found, faults = read_notes(data, byte_order)
    assert found == (CORE, CORE, CORE)
    assert faults == (f"{zeros} bytes of zeros stand before the note at offset {28 + zeros:#x}",)


def test_notes_padded_to_8_bytes() -> None:
    """As the ABI asks for in 64-bit files, and binutils writes NT_GNU_PROPERTY_TYPE_0."""
    note = bytes.fromhex("05000000 06000000 02000000") + b"CORE".ljust(12, b"\0") + b"abcdef\0\0"
    assert read_notes(note * 3, "little", 8) == ((CORE, CORE, CORE), ())


def test_more_notes_than_any_machine_has() -> None:
    found, faults = read_notes(LITTLE * (MAX_NOTES + 5), "little")
    assert len(found) == MAX_NOTES
    assert faults == ("there are more than 262144 notes: what follows is not read",)


def test_a_type_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="Nhdr"):
        pack_note(Note("CORE", 1 << 32, b""), "little")


@given(notes, byte_orders)
def test_there_and_back(given_notes: list[Note], byte_order: ByteOrder) -> None:
    data = pack_notes(given_notes, byte_order)
    assert len(data) % 4 == 0
    assert unpack_notes(data, byte_order) == tuple(given_notes)


@given(st.builds(Note, names, st.just(1), st.binary(min_size=1, max_size=40)), byte_orders)
def test_desc_offset_is_where_the_desc_is(note: Note, byte_order: ByteOrder) -> None:
    at = desc_offset(note)
    assert pack_note(note, byte_order)[at : at + len(note.desc)] == note.desc


@given(st.binary(max_size=200), byte_orders)
def test_any_bytes_give_notes_or_an_error(data: bytes, byte_order: ByteOrder) -> None:
    found, faults = read_notes(data, byte_order)
    if faults:
        with pytest.raises(ValueError, match="offset"):
            unpack_notes(data, byte_order)
    assert sum(len(note.desc) + len(note.name) for note in found) <= len(data)


@pytest.mark.parametrize(
    ("note", "expected"),
    [
        (Note("VMCOREINFO", 0, b""), True),
        (Note("VMCOREINFO", 1, b""), False),
        (Note("VMCOREINFO_XEN", 0, b""), False),
        (Note("CORE", 0, b""), False),
    ],
)
def test_which_note_is_vmcoreinfo(note: Note, expected: bool) -> None:
    assert note.is_vmcoreinfo is expected
