"""Registers as JSON: taken out of a dump, edited and put back, whoever wrote its notes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

import pydump
from pydump.builtin.raw import BytesImage
from pydump.layout.notes import unpack_notes
from pydump.model.guest import ByteOrder, Cpu, Guest
from pydump.model.memory import MemoryMap
from pydump.model.note import Note
from pydump.registry import installed

DATA = Path(__file__).parents[1] / "data/notes"
#: Architectures with notes that QEMU wrote of a booted guest, and the byte order these are in.
ORDERS: dict[str, ByteOrder] = {
    "x86_64": "little", "i386": "little", "aarch64": "little", "s390x": "big", "ppc64": "big", "riscv64": "little",
}  # fmt: skip


def qemus_notes(arch: str) -> tuple[Note, ...]:
    return unpack_notes((DATA / arch / "notes.bin").read_bytes(), ORDERS[arch])


def dumped(arch: str, notes: tuple[Note, ...], path: Path) -> tuple[Note, ...]:
    """Make an ELF dump that has these notes, and give those it has."""
    guest = Guest(MemoryMap(), arch=arch, byte_order=ORDERS[arch], notes=notes)
    pydump.dump(BytesImage(guest, {0: bytes(4096)}), path, format="elf")
    with pydump.open(path) as vmcore:
        return vmcore.notes


@pytest.mark.parametrize("arch", ORDERS)
@pytest.mark.parametrize("whose", ["QEMU's", "a kernel's"])
def test_out_and_back(arch: str, whose: str, run: Callable[..., object], tmp_path: Path) -> None:
    """A kernel's own vmcore has NT_PRSTATUS and nothing else."""
    notes = qemus_notes(arch)
    kept = notes if whose == "QEMU's" else tuple(note for note in notes if (note.name, note.type) == ("CORE", 1))
    before = dumped(arch, kept, tmp_path / "before")
    (tmp_path / "cpus").write_text(run("info", "before", "--json", "--notes").out)
    made = run("dump", "before", "after", "--format", "elf", "--cpus", "cpus")
    assert made.code == 0, made.err
    with pydump.open(tmp_path / "after") as vmcore:
        assert vmcore.notes == before


@pytest.mark.parametrize("arch", ORDERS)
def test_registers_that_a_source_has_in_its_own_form_become_qemus_notes(arch: str, tmp_path: Path) -> None:
    notes, order = qemus_notes(arch), ORDERS[arch]
    cpus = installed().arch(arch).cpus(notes, order)
    guest = Guest(MemoryMap(), arch=arch, byte_order=order, cpus=cpus)
    pydump.dump(BytesImage(guest, {0: bytes(4096)}), tmp_path / "out", format="elf")
    with pydump.open(tmp_path / "out") as vmcore:
        assert vmcore.notes == dumped(arch, notes, tmp_path / "same")
        assert vmcore.guest.n_cpus == len(cpus)


def test_registers_that_a_source_lacks_are_0_and_said() -> None:
    guest = Guest(MemoryMap(), arch="x86_64", cpus=(Cpu(0, {"rip": 0x1234}), Cpu(1, {"rip": 5, "cr3": 7})))
    with pydump.Dump(BytesImage(guest, {0: bytes(4096)}), installed()) as opened:
        assert [cpu.registers["cr3"] for cpu in opened.cpus] == [0, 7]
        (line,) = (line for line in opened.warnings if "lacks" in line)
        assert line.startswith("the source lacks 63 registers of its CPUs, which are 0 in the notes: r15 r14 ")


def test_qemus_note_as_it_was_and_as_it_may_be(run: Callable[..., object], tmp_path: Path) -> None:
    """QEMU before 3.0 wrote 432 bytes, without kernel_gs_base; a later one may write more than today's 440."""
    notes = qemus_notes("x86_64")
    shorter = tuple(
        Note(n.name, n.type, n.desc[:4] + (432).to_bytes(4, "little") + n.desc[8:432]) if n.name == "QEMU" else n
        for n in notes
    )
    before = dumped("x86_64", shorter, tmp_path / "before")
    (tmp_path / "cpus").write_text(run("info", "before", "--json", "--notes").out)
    assert run("dump", "before", "after", "--format", "elf", "--cpus", "cpus").code == 0
    with pydump.open(tmp_path / "after") as vmcore:
        assert vmcore.notes == before == shorter
    longer = tuple(Note(n.name, n.type, n.desc + bytes(8)) if n.name == "QEMU" else n for n in notes)
    assert dumped("x86_64", longer, tmp_path / "longer") == longer
    told = json.loads(run("info", "longer", "--json", "--notes").out)["cpus"]
    assert [int(cpu["kernel_gs_base"], 0) for cpu in told] == [
        int.from_bytes(n.desc[432:440], "little") for n in notes if n.name == "QEMU"
    ]


def test_registers_of_optional_notes_are_all_needed(
    qemu: Callable[..., Path], run: Callable[..., object], refuse: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "ram").write_bytes(bytes(4096))
    cpu = json.loads(run("info", qemu("bare-arm", "elf"), "--json", "--notes").out)["cpus"][0]
    assert cpu["pr_fpvalid"] == "0x1"
    command = ("dump", "raw:ram@0", "out", "--arch", "arm", "--cpus", "cpus")
    (tmp_path / "cpus").write_text(json.dumps([{name: cpu[name] for name in cpu if name != "d7"}]))
    assert refuse(2, *command).startswith("CPU 0 lacks 1 of arm's registers: d7; ")
    vfp = {"fpscr", *(f"d{i}" for i in range(32))}
    (tmp_path / "cpus").write_text(
        json.dumps([{name: cpu[name] for name in cpu if name not in vfp} | {"pr_fpvalid": 0}])
    )
    assert run(*command).code == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"r0": 1, "r0": 2}]', "'r0' stands twice"),
        ('[{"r0": 1}]\xff', "it is not UTF-8 text"),
    ],
)
def test_what_is_no_list_of_registers(text: str, said: str, refuse: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "ram").write_bytes(bytes(4096))
    (tmp_path / "cpus").write_bytes(text.encode("latin-1"))
    assert said in refuse(2, "dump", "raw:ram@0", "out", "--arch", "arm", "--cpus", "cpus")


def test_a_list_of_registers_that_has_no_end(refuse: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "ram").write_bytes(bytes(4096))
    assert "longer than" in refuse(2, "dump", "raw:ram@0", "out", "--arch", "arm", "--cpus", "/dev/zero")


def test_registers_decide_the_byte_order_of_ppc64(
    qemu: Callable[..., Path], run: Callable[..., object], tmp_path: Path
) -> None:
    (tmp_path / "ram").write_bytes(bytes(65536))
    cpu = json.loads(run("info", qemu("bare-ppc64", "elf"), "--json", "--notes").out)["cpus"][0]
    (tmp_path / "cpus").write_text(json.dumps([{**cpu, "msr": 0x8000000000001033, "r3": 0x0102030405060708}]))
    command = ("dump", "raw:ram@0", "out", "--arch", "ppc64", "--cpus", "cpus")
    assert run(*command, "--format", "elf").code == 0
    with (tmp_path / "out").open("rb") as file:
        elf = ELFFile(file)
        assert elf.little_endian
        file.seek(next(elf.iter_segments("PT_NOTE")).header.p_offset)
        assert (0x0102030405060708).to_bytes(8, "little") in file.read(1000)
    assert run(*command, "--force").code == 0
    facts = json.loads(run("info", "out", "--json").out)
    assert (facts["arch"], facts["byte_order"]) == ("ppc64le", "little")
