"""Windows crash dumps of a guest: the header from its note, from a file and from memory; contexts; runs and bitmaps."""

from __future__ import annotations

import random
import struct
import time
from functools import partial
from pathlib import Path

import pytest

import pydump
from elf_files import Core, Load
from pydump.builtin.raw import BytesImage
from pydump.errors import PlanError
from pydump.model.guest import Cpu, Guest
from pydump.model.memory import MemoryMap, Ranges
from pydump.model.vmcoreinfo import Vmcoreinfo
from pydump.registry import installed
from pydump_format_windmp.complete import CONTROL_REGISTERS
from windows_guest import BLOCKS, BUILD, KDBG_SIZE, KERNEL, MODULES, PAGE, PFN_DATABASE, PROCESSES, WindowsGuest

KINDS = [(64, False), (32, False), (32, True)]
HEADER_SIZE = {64: 8192, 32: 4096}
#: Offsets in a header, by its bits. Source: QEMU's include/qemu/win_dump_defs.h.
PFN, BUGCHECK_CODE, KDBG_ADDRESS, CONTEXT, REQUIRED = (
    {64: 24, 32: 20},
    {64: 56, 32: 40},
    {64: 128, 32: 96},
    {64: 840, 32: 800},
    {64: 4000, 32: 4000},
)


def elf(guest: WindowsGuest, path: Path, header: bytes | None, **registers: int) -> str:
    """QEMU's dump of the guest: memory, the notes of its CPUs, and what its driver left, if anything."""
    arch = installed().arch("x86_64" if guest.bits == 64 else "i386")
    cpus = [Cpu(i, guest.registers(i) | guest.system_registers(i) | registers) for i in range(guest.n_cpus)]
    loads = [Load(start, bytes(guest.ram[start : start + size])) for start, size in BLOCKS]
    core = Core(loads, machine=62 if guest.bits == 64 else 3)
    notes = b"".join(core.note(note.name.encode(), note.type, note.desc) for note in arch.cpu_notes(cpus, "little"))
    core.notes = [notes + (core.note(b"VMCOREINFO", 0, header) if header else b"")]
    path.write_bytes(core.build())
    return str(path)


dump = partial(pydump.dump, sync=False, workers=1)


def qemu_header(guest: WindowsGuest, given: bytes) -> bytes:
    """The header that QEMU makes of the driver's. Source: QEMU's dump/win_dump.c, patch_header and check_kdbg."""
    bits, out = guest.bits, bytearray(given)
    pages = sum(size for _, size in BLOCKS)
    out[REQUIRED[bits] : REQUIRED[bits] + bits // 8] = (HEADER_SIZE[bits] + pages).to_bytes(bits // 8, "little")
    out[PFN[bits] : PFN[bits] + bits // 8] = guest.word(KERNEL[bits] + PFN_DATABASE)
    out[KDBG_ADDRESS[bits] : KDBG_ADDRESS[bits] + bits // 8] = guest.word(guest.kdbg)
    out[BUGCHECK_CODE[bits] : BUGCHECK_CODE[bits] + 5 * bits // 8] = bytes(5 * bits // 8)
    out[BUGCHECK_CODE[bits] : BUGCHECK_CODE[bits] + 4] = struct.pack("<I", 0x161)
    return bytes(out)


def with_context(guest: WindowsGuest, header: bytes) -> bytes:
    """A header with the registers of CPU 0."""
    at, context = CONTEXT[guest.bits], guest.context(0)
    return header[:at] + context + header[at + len(context) :]


@pytest.mark.parametrize(("bits", "pae"), KINDS)
def test_compat_qemu_writes_what_qemu_does(bits: int, pae: bool, tmp_path: Path) -> None:
    guest = WindowsGuest(bits, pae)
    source = elf(guest, tmp_path / "in", guest.header())
    before = (tmp_path / "in").read_bytes()
    dump(source, str(tmp_path / "out"), format="win-dmp", compat="qemu")
    assert (tmp_path / "out").read_bytes() == qemu_header(guest, guest.header()) + guest.memory(guest.with_contexts())
    assert (tmp_path / "in").read_bytes() == before


@pytest.mark.parametrize(("bits", "pae"), KINDS)
def test_dump_has_the_registers_of_cpu_0_in_its_header_as_well(bits: int, pae: bool, tmp_path: Path) -> None:
    guest = WindowsGuest(bits, pae)
    report = dump(elf(guest, tmp_path / "in", guest.header()), str(tmp_path / "out"), format="windmp")
    written = with_context(guest, qemu_header(guest, guest.header())) + guest.memory(guest.with_contexts())
    assert (tmp_path / "out").read_bytes() == written
    assert report.warnings == (CONTROL_REGISTERS,)


def test_context_that_windows_has_made_stays_in_the_header(tmp_path: Path) -> None:
    guest = WindowsGuest(64)
    given = guest.header()
    context = guest.context(1)
    given = given[:840] + context + given[840 + len(context) :]
    dump(elf(guest, tmp_path / "in", given), str(tmp_path / "out"), format="windmp")
    assert (tmp_path / "out").read_bytes()[840 : 840 + len(context)] == context


def test_bugcheck_of_the_guest_is_in_the_header(tmp_path: Path) -> None:
    guest = WindowsGuest(64)
    data = struct.pack("<5Q", 0x1_0000_00D1, 1, 2, 3, 4)
    guest.write(KERNEL[64] + 0x5040, data)
    dump(elf(guest, tmp_path / "in", guest.header()), str(tmp_path / "out"), format="windmp")
    with pydump.open(str(tmp_path / "out")) as opened:
        assert opened.known.windows is not None
        assert opened.known.windows.bugcheck == (0xD1, 1, 2, 3, 4)


def test_decoded_copy_that_the_driver_left_is_taken(tmp_path: Path) -> None:
    guest = WindowsGuest(64, encode=True)
    copy = KERNEL[64] + 0x300000
    guest.write(copy, guest.block)
    given = guest.header(parameter=copy)
    dump(elf(guest, tmp_path / "in", given), str(tmp_path / "out"), format="windmp", compat="qemu")
    data = (tmp_path / "out").read_bytes()
    assert struct.unpack_from("<Q", data, 128) == (copy,)
    assert data[8192:] == guest.memory(guest.with_contexts())


def test_encoded_block_is_found_and_written_decoded(tmp_path: Path) -> None:
    guest = WindowsGuest(64, encode=True)
    report = dump(elf(guest, tmp_path / "in", guest.header()), str(tmp_path / "out"), format="windmp")
    data = (tmp_path / "out").read_bytes()
    assert data[:8192] == with_context(guest, qemu_header(guest, guest.header()))
    assert data[8192:] == guest.memory(guest.with_contexts(guest.block))
    assert report.warnings == (CONTROL_REGISTERS,)


@pytest.mark.parametrize("encode", [False, True])
@pytest.mark.parametrize(("bits", "pae"), KINDS)
def test_header_is_made_from_memory_where_nobody_gives_one(bits: int, pae: bool, encode: bool, tmp_path: Path) -> None:
    guest = WindowsGuest(bits, pae, encode=encode)
    report = dump(elf(guest, tmp_path / "in", None), str(tmp_path / "out"), format="windmp")
    data = (tmp_path / "out").read_bytes()
    assert data[HEADER_SIZE[bits] :] == guest.memory(guest.with_contexts(guest.block))
    if bits == 64:
        base = KERNEL[64]
        assert struct.unpack_from("<II4QII", data, 8) == (
            15, BUILD, guest.root, base + PFN_DATABASE, base + MODULES, base + PROCESSES, 0x8664, 2,
        )  # fmt: skip
        assert struct.unpack_from("<IIQ4Q", data, 136) == (2, 0, 1184, 0, 160, 256, 1024)
        assert struct.unpack_from("<IIQQ", data, 3992) == (1, 0, len(data), 133_000_000_000_000_000)
        assert struct.unpack_from("<II", data, 4160) == (3, 0x110)
    else:
        base = KERNEL[32]
        assert struct.unpack_from("<8I", data, 8) == (
            15, BUILD, guest.root, base + PFN_DATABASE, base + MODULES, base + PROCESSES, 0x14C, 2,
        )  # fmt: skip
        assert data[92] == pae
        assert struct.unpack_from("<II4I", data, 100) == (2, 1184, 0, 160, 256, 1024)
    assert struct.unpack_from("<I", data, BUGCHECK_CODE[bits]) == (0x161,)
    assert report.warnings == (CONTROL_REGISTERS,)


def test_what_stays_zero_in_a_made_header_is_said(tmp_path: Path) -> None:
    guest = WindowsGuest(64)
    guest.write(guest.kdbg, bytes(KDBG_SIZE))
    report = dump(elf(guest, tmp_path / "in", None), str(tmp_path / "out"), format="windmp")
    assert [line for line in report.warnings if "PsLoadedModuleList" in line and "zero" in line]
    assert [line for line in report.warnings if "registers of CPU 1:" in line]
    with pydump.open(str(tmp_path / "out")) as opened:
        (cpu,) = opened.cpus
        assert {name: cpu.registers[name] for name in guest.registers(0)} == guest.registers(0)


def test_page_tables_of_user_mode_lead_to_those_of_the_kernel(tmp_path: Path) -> None:
    """With KVA shadowing, CR3 of a CPU in user mode maps the control block of its processor and little else."""
    guest = WindowsGuest(64, n_cpus=1)
    source = elf(guest, tmp_path / "in", None, **guest.shadow())
    report = dump(source, str(tmp_path / "out"), format="windmp")
    assert struct.unpack_from("<Q", (tmp_path / "out").read_bytes(), 16) == (guest.root,)
    assert report.warnings == (CONTROL_REGISTERS,)


@pytest.mark.parametrize("bits", [64, 32])
def test_header_from_a_file(bits: int, tmp_path: Path) -> None:
    guest = WindowsGuest(bits)
    (tmp_path / "header").write_bytes(guest.full())
    source = elf(guest, tmp_path / "in", None)
    options = {"windmp": {"header": str(tmp_path / "header")}}
    dump(source, str(tmp_path / "out"), format="windmp", options=options)
    assert (tmp_path / "out").read_bytes()[: HEADER_SIZE[bits]] == with_context(
        guest, qemu_header(guest, guest.header())
    )


@pytest.mark.parametrize("content", [None, b"", b"PAGEDU64 and no more", b"\x7fELF" * 4096])
def test_file_without_a_header_is_refused(content: bytes | None, tmp_path: Path) -> None:
    guest = WindowsGuest(64)
    if content is not None:
        (tmp_path / "header").write_bytes(content)
    options = {"windmp": {"header": str(tmp_path / "header")}}
    with pytest.raises(PlanError):
        dump(elf(guest, tmp_path / "in", None), str(tmp_path / "out"), format="windmp", options=options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("machine", [62, 183, 22], ids=["x86_64", "aarch64", "s390x"])
def test_guest_that_does_not_run_windows_has_a_header_that_says_where_memory_lies(machine: int, tmp_path: Path) -> None:
    memory = bytes(range(256)) * 1024
    (tmp_path / "in").write_bytes(
        Core([Load(PAGE, memory)], machine=machine, order=">" if machine == 22 else "<").build()
    )
    report = dump(str(tmp_path / "in"), str(tmp_path / "out"), format="windmp")
    assert [line for line in report.warnings if "--windmp-header" in line]
    with pydump.open(str(tmp_path / "out"), arch="s390x" if machine == 22 else None) as opened:
        assert opened.guest.machine == machine
        assert opened.read(PAGE, len(memory)) == memory


def test_a_linux_guest_is_refused(tmp_path: Path) -> None:
    """Its dump would claim to be of a Windows without a version."""
    facts = Guest(MemoryMap.of([]), arch="x86_64", vmcoreinfo=Vmcoreinfo(b"OSRELEASE=6.1.0\nPAGESIZE=4096\n"))
    linux = BytesImage(facts, {0: bytes(range(256)) * 1024})
    with pytest.raises(PlanError, match="the guest runs Linux") as caught:
        dump(linux, str(tmp_path / "out"), format="windmp")
    assert "--windmp-header" in (caught.value.hint or "")
    assert not (tmp_path / "out").exists()
    (tmp_path / "header").write_bytes(WindowsGuest(64).header())
    report = dump(
        linux, str(tmp_path / "out"), format="windmp", options={"windmp": {"header": str(tmp_path / "header")}}
    )
    assert report.windows


def scattered(guest: WindowsGuest, n_blocks: int, path: Path) -> BytesImage:
    """The guest with ``n_blocks`` more blocks of RAM, a page apart."""
    blocks = {start: bytes(guest.ram[start : start + size]) for start, size in BLOCKS}
    end = sum(BLOCKS[-1])
    blocks |= {end + (2 * i + 1) * PAGE: struct.pack("<Q", i + 1) * 512 for i in range(n_blocks)}
    with pydump.open(elf(guest, path, guest.header())) as opened:
        notes = opened.notes
    memory = MemoryMap.of((start, len(data)) for start, data in blocks.items())
    return BytesImage(
        Guest(memory, machine=62 if guest.bits == 64 else 3, byte_order="little", elf_class=guest.bits, notes=notes),
        blocks,
    )


@pytest.mark.parametrize(("bits", "room"), [(64, 42), (32, 86)])
def test_more_runs_than_the_header_has_room_for_make_a_bitmap_dump(bits: int, room: int, tmp_path: Path) -> None:
    guest = WindowsGuest(bits)
    for extra, type_ in ((room - 2, 1), (room - 1, 5)):
        source = scattered(guest, extra, tmp_path / "in")
        dump(source, str(tmp_path / "out"), format="windmp", force=True)
        (at,) = struct.unpack_from("<I", (tmp_path / "out").read_bytes(), {64: 3992, 32: 3976}[bits])
        assert at == type_
        with pydump.open(str(tmp_path / "out")) as opened:
            assert opened.stated.memory.ranges() == source.guest().memory.ranges()
            assert opened.image.excluded() == opened.image.unreadable() == Ranges.empty()
            last = source.guest().memory.blocks[-1]
            assert opened.read(last.paddr, PAGE) == struct.pack("<Q", extra) * 512
            assert opened.read(0x100000, 0x100000) == guest.with_contexts()[0x100000:0x200000]


def test_pages_that_are_left_out_or_lost_make_a_bitmap_dump(tmp_path: Path) -> None:
    guest = WindowsGuest(64)
    core = elf(guest, tmp_path / "in", guest.header())
    (tmp_path / "cut").write_bytes(Path(core).read_bytes()[: -8 * PAGE])
    report = dump(str(tmp_path / "cut"), str(tmp_path / "out"), format="windmp")
    assert not report.complete
    end = sum(BLOCKS[-1])
    with pydump.open(str(tmp_path / "out")) as opened:
        assert opened.stated.memory.ranges() == Ranges.of((start, start + size) for start, size in BLOCKS)
        assert opened.image.excluded() == Ranges.of([(end - 8 * PAGE, end)])


@pytest.mark.parametrize("middle", ["windmp", "kdump"])
@pytest.mark.parametrize(("bits", "pae"), KINDS)
def test_way_there_and_back_keeps_the_guest(bits: int, pae: bool, middle: str, tmp_path: Path) -> None:
    guest = WindowsGuest(bits, pae)
    first = elf(guest, tmp_path / "in", guest.header())
    names = [str(tmp_path / name) for name in ("one.dmp", "two", "three", "four.dmp")]
    dump(first, names[0], format="windmp")
    dump(names[0], names[1], format=middle)
    dump(names[1], names[2], format="elf")
    dump(names[2], names[3], format="windmp")
    assert pydump.compare(names[0], names[2]).same
    assert Path(names[3]).read_bytes() == Path(names[0]).read_bytes()


def test_only_the_contexts_are_not_the_guests_memory(tmp_path: Path) -> None:
    guest = WindowsGuest(64)
    first = elf(guest, tmp_path / "in", guest.header())
    dump(first, str(tmp_path / "out"), format="windmp")
    report = pydump.compare(first, str(tmp_path / "out"))
    pages = {guest.paddr(vaddr + at) & ~0xFFF for vaddr in guest.contexts for at in (0, 1231)}
    assert {d.paddr for d in report.differences if d.kind == "contents"} == pages
    assert {d.kind for d in report.differences} <= {"contents", "note"}


def test_contexts_are_written_where_zero_pages_are_left_out(tmp_path: Path) -> None:
    guest = WindowsGuest(64)
    for vaddr in guest.contexts:
        guest.write(vaddr, bytes(1232))
    dump(elf(guest, tmp_path / "in", guest.header()), str(tmp_path / "out"), format="windmp", exclude=["zero"])
    with pydump.open(str(tmp_path / "out")) as opened:
        assert opened.image.excluded()
        for cpu in opened.cpus:
            assert {name: cpu.registers[name] for name in guest.registers(cpu.index)} == guest.registers(cpu.index)
        assert len(opened.cpus) == 2


def test_qemu_compatibility_takes_the_guests_own_header(tmp_path: Path) -> None:
    source = elf(WindowsGuest(64), tmp_path / "in", None)
    with pytest.raises(PlanError, match="--compat"):
        dump(source, str(tmp_path / "out"), format="windmp", compat="qemu")
    assert not (tmp_path / "out").exists()


def test_kdump_of_a_windows_guest_keeps_the_header_as_a_note_and_not_as_a_text(tmp_path: Path) -> None:
    guest = WindowsGuest(64)
    dump(elf(guest, tmp_path / "in", guest.header()), str(tmp_path / "out"), format="kdump")
    data = (tmp_path / "out").read_bytes()
    assert struct.unpack_from("<QQ", data, 4096 + 32) == (0, 0)  # offset_vmcoreinfo and size_vmcoreinfo
    assert b"Windows" in data[:512]  # utsname.sysname
    with pydump.open(str(tmp_path / "out")) as opened:
        assert opened.vmcoreinfo is None
        assert opened.known.windows is not None
        assert opened.known.windows.header == guest.header()


@pytest.mark.parametrize("given", [True, False], ids=["header", "made"])
@pytest.mark.parametrize(("bits", "pae"), KINDS)
def test_damaged_guest_gives_a_dump_of_all_of_its_memory(bits: int, pae: bool, given: bool, tmp_path: Path) -> None:
    """Page tables, image, data block and pointers are the guest's word."""
    seeded = random.Random(bits + pae)
    guest = WindowsGuest(bits, pae, encode=not given)
    with pydump.open(elf(guest, tmp_path / "in", guest.header() if given else None)) as opened:
        facts = opened.stated
    targets = [paddr for paddr in range(0x101000, guest.next_page, PAGE) if any(guest.ram[paddr : paddr + PAGE])]
    for _ in range(12):
        ram = bytearray(guest.ram)
        for _ in range(seeded.randrange(1, 12)):
            at = seeded.choice(targets) + seeded.randrange(0, PAGE, 4)
            ram[at : at + 8] = seeded.choice([bytes(8), b"\xff" * 8, seeded.randbytes(8), struct.pack("<Q", 0x101003)])
        image = BytesImage(facts, {start: bytes(ram[start : start + size]) for start, size in BLOCKS})
        began = time.monotonic()
        dump(image, str(tmp_path / "out"), format="windmp", force=True)
        assert time.monotonic() - began < 5
        with pydump.open(str(tmp_path / "out")) as opened:
            assert opened.stated.memory.size == sum(size for _, size in BLOCKS)
