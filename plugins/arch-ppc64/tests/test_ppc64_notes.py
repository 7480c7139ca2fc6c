"""The notes of a ppc64 CPU against QEMU's own, in both byte orders."""

from __future__ import annotations

import re
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from pydump.layout.notes import pack_notes, unpack_notes
from pydump.model.guest import ByteOrder, Cpu, Guest, Utsname
from pydump.model.memory import MemoryMap
from pydump.model.note import Note
from pydump.model.vmcoreinfo import Vmcoreinfo
from pydump_arch_ppc64 import Ppc64Arch, Ppc64leArch

DATA = Path(__file__).parents[3] / "tests/data/notes"

GUESTS = ["ppc64", "bare-ppc64"]


def golden_notes(guest: str) -> tuple[Note, ...]:
    return unpack_notes((DATA / guest / "notes.bin").read_bytes(), "big")


def monitor_registers(guest: str) -> list[dict[str, int]]:
    """What ``info registers`` shows of each CPU, under our names."""
    cpus = []
    for text in re.split(r"^CPU#\d", (DATA / guest / "hmp-registers.txt").read_text(), flags=re.M)[1:]:
        shown = {}
        for name in ("nip", "lr", "ctr", "xer", "msr", "cr", "fpscr"):
            shown[name] = int(re.findall(rf"\b{name.upper()} ([0-9a-f]+)", text)[0], 16)
        for ours, theirs in (("r", "GPR"), ("f", "FPR")):
            for first, values in re.findall(rf"^{theirs}(\d\d)((?: [0-9a-f]{{16}}){{4}})", text, re.M):
                for i, value in enumerate(values.split()):
                    shown[f"{ours}{int(first) + i}"] = int(value, 16)
        cpus.append(shown)
    return cpus


@pytest.mark.parametrize("guest", GUESTS)
def test_notes_equal_qemus(guest: str) -> None:
    golden = (DATA / guest / "notes.bin").read_bytes()
    held, shown = Ppc64Arch.cpus(golden_notes(guest), "big"), monitor_registers(guest)
    assert [set(cpu) for cpu in shown] == [
        {*(f"r{i}" for i in range(32)), *(f"f{i}" for i in range(32)), *"nip lr ctr xer msr cr fpscr".split()}
    ] * 2
    # The monitor has no vector registers; QEMU leaves what is neither there nor here 0.
    cpus = [
        Cpu(i, {k: v for k, v in {**cpu.registers, **seen}.items() if v and k != "pr_pid"})
        for i, (cpu, seen) in enumerate(zip(held, shown, strict=True))
    ]
    assert pack_notes(Ppc64Arch.cpu_notes(cpus, "big", compat="qemu"), "big") == golden


@pytest.mark.parametrize("guest", GUESTS)
def test_pr_pid_tells_the_cpus_apart(guest: str) -> None:
    golden = golden_notes(guest)
    assert {note.desc[32:36] for note in golden if note.type == 1} == {bytes(4)}  # QEMU's mistake
    corrected = Ppc64Arch.quirks.corrected(golden, "big")
    assert [note.desc[32:36] for note in corrected if note.type == 1] == [b"\0\0\0\1", b"\0\0\0\2"]
    assert [n.desc[:32] + n.desc[36:] for n in corrected] == [n.desc[:32] + n.desc[36:] for n in golden]
    assert Ppc64Arch.cpu_notes(Ppc64Arch.cpus(corrected, "big"), "big") == corrected


def test_the_kernels_own_notes_stay_as_they_are() -> None:
    """Its idle tasks' pr_pid is 0 rightly."""
    own = tuple(note for note in golden_notes("ppc64") if note.type == 1)
    assert Ppc64Arch.quirks.corrected(own, "big") == own


def own_names(byte_order: ByteOrder) -> dict[str, int]:
    return {
        r.name: int.from_bytes(r.name.encode()[: r.bits // 8].ljust(r.bits // 8, b"\0"), byte_order)
        for r in Ppc64Arch.registers
        if r.name != "pr_pid"
    }


@pytest.mark.parametrize("byte_order", ["big", "little"])
def test_every_register_lies_where_the_kernels_structs_have_it(byte_order: ByteOrder) -> None:
    def row(names: str, size: int) -> bytes:
        return b"".join(name.encode()[:size].ljust(size, b"\0") for name in names.split())

    def many(prefix: str, suffix: str = "") -> str:
        return " ".join(f"{prefix}{i}{suffix}" for i in range(32))

    # The kernel's elf_vrregset: vscr is the last word of its vector in big-endian mode and the first in little-endian.
    vscr = bytes(12) + b"vscr" if byte_order == "big" else b"vscr" + bytes(12)
    assert Ppc64Arch.cpu_notes([Cpu(0, own_names(byte_order))], byte_order) == (
        Note(
            "CORE",
            1,
            bytes(32)
            + (1).to_bytes(4, byte_order)
            + bytes(76)
            + row(many("r") + " nip msr orig_r3 ctr lr xer cr softe trap dar dsisr result", 8)
            + bytes(40),
        ),
        Note("CORE", 2, row(many("f") + " fpscr", 8)),
        Note("CORE", 0x100, row(many("v"), 16) + vscr + b"vrsa" + bytes(12)),
        Note("CORE", 0x102, row(many("vs", "_low"), 8)),
        Note("CORE", 0x101, row(many("evr"), 4) + b"spe_acc\0spef"),
    )


def test_little_endian_guest_in_qemus_big_endian_file_comes_out_little_endian() -> None:
    golden = golden_notes("ppc64")
    stated = Guest(
        MemoryMap.of([(0, 256 << 20)]),
        machine=21,
        byte_order="big",
        elf_class=64,
        page_size=65536,
        notes=golden,
        vmcoreinfo=Vmcoreinfo(b"OSRELEASE=6.1.0-50-powerpc64le\nPAGESIZE=65536\n"),
    )
    for arch in (Ppc64Arch, Ppc64leArch):
        guest = arch.complete(stated)
        assert (guest.arch, guest.byte_order, guest.utsname.machine) == ("ppc64le", "little", "ppc64le")
        assert (guest.machine, guest.elf_class, guest.n_cpus) == (21, 64, 2)
        assert arch.complete(guest) == guest
        for ours, qemus, shown in zip(
            [note for note in guest.notes if note.type == 1],
            [note for note in golden if note.type == 1],
            monitor_registers("ppc64"),
            strict=True,
        ):
            words = struct.unpack("<44Q", ours.desc[112:464])
            assert words == struct.unpack(">44Q", qemus.desc[112:464])
            assert words[32:34] == (shown["nip"], shown["msr"])
        # Vector registers are 128-bit numbers: all their bytes turn round.
        ours_v, qemus_v = guest.notes[2].desc, golden[2].desc
        assert [ours_v[i : i + 16] for i in range(0, 512, 16)] == [qemus_v[i : i + 16][::-1] for i in range(0, 512, 16)]
        assert any(qemus_v[:512])
        assert [note.desc[32:36] for note in guest.notes if note.type == 1] == [b"\1\0\0\0", b"\2\0\0\0"]

        back = arch.quirks.stated(guest)
        assert (back.notes, back.byte_order, back.vmcoreinfo) == (golden, "big", None)


def test_big_endian_guest_stays_big_endian() -> None:
    guest = Ppc64Arch.complete(Guest(MemoryMap(), byte_order="big", notes=golden_notes("bare-ppc64")))
    assert (guest.arch, guest.byte_order, guest.utsname.machine) == ("ppc64", "big", "ppc64")
    assert Ppc64Arch.cpus(guest.notes, "big")[0].registers["nip"] == 0x100


@pytest.mark.parametrize(
    ("msrs", "order"),
    [
        ([0, 1], "little"),  # a CPU that has not started, and one in the kernel
        ([1 << 14 | 1, 1 << 14 | 1], "little"),  # programs alone
        ([1 << 14 | 1, 0], "little"),
        ([1 << 14 | 1, 0x8000000000001032], "big"),  # a little-endian program under a big-endian kernel
        ([0x8000000000001032], "big"),
        ([], "big"),
    ],
)
def test_the_kernels_mode_decides(msrs: list[int], order: ByteOrder) -> None:
    notes = Ppc64Arch.cpu_notes([Cpu(i, {"msr": msr}) for i, msr in enumerate(msrs)], "big")
    assert Ppc64Arch.complete(Guest(MemoryMap(), byte_order="big", notes=notes)).byte_order == order


def test_without_registers_the_name_decides() -> None:
    stated = Guest(MemoryMap.of([(0, 1 << 20)]))
    assert Ppc64Arch.complete(stated).byte_order == "big"
    assert Ppc64leArch.complete(stated).byte_order == "little"
    assert Ppc64Arch.complete(replace(stated, byte_order="little")).arch == "ppc64le"


@pytest.mark.parametrize("name", GUESTS)
def test_quirks_state_what_qemus_kdump_header_does(name: str) -> None:
    header = (DATA / name / "kdump-header.bin").read_bytes()
    settled = Ppc64Arch.complete(Guest(MemoryMap.of([(0, 256 << 20)]), byte_order="big", notes=golden_notes(name)))
    guest = Ppc64Arch.quirks.stated(settled)
    assert guest.phys_base == struct.unpack(">q", header[464:472])[0]
    assert guest.page_size == struct.unpack(">I", header[428:432])[0]
    assert guest.utsname == Utsname(machine=header[12:402].replace(b"\0", b"").decode())
    assert guest.notes == golden_notes(name)
