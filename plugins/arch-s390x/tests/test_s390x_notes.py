"""The notes of an s390x CPU against QEMU's own."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from pydump.layout.notes import pack_notes, unpack_notes
from pydump.model.guest import Cpu, Guest, Utsname
from pydump.model.memory import MemoryMap
from pydump.model.note import Note
from pydump_arch_s390x import S390xArch

DATA = Path(__file__).parents[3] / "tests/data/notes"

GUESTS = ["s390x", "bare-s390x"]


def monitor_registers(guest: str) -> list[dict[str, int]]:
    """What ``info registers`` shows of each CPU, under our names."""
    cpus = []
    for text in (DATA / guest / "hmp-registers.txt").read_text().split("CPU#")[1:]:
        mask, addr = re.findall(r"PSW=mask ([0-9a-f]{16}) addr ([0-9a-f]{16})", text)[0]
        shown = {"psw_mask": int(mask, 16), "psw_addr": int(addr, 16)}
        for kind, number, value in re.findall(r"\b([RVC])(\d\d)=([0-9a-f]+)", text):
            i = int(number)
            if kind == "V" and i < 16:
                shown[f"f{i}"], shown[f"v{i}_low"] = int(value[:16], 16), int(value[16:], 16)
            else:
                shown[{"R": "r", "V": "v", "C": "cr"}[kind] + str(i)] = int(value, 16)
        cpus.append(shown)
    return cpus


@pytest.mark.parametrize("guest", GUESTS)
def test_notes_equal_qemus(guest: str) -> None:
    golden = (DATA / guest / "notes.bin").read_bytes()
    notes = unpack_notes(golden, "big")
    held, shown = S390xArch.cpus(notes, "big"), monitor_registers(guest)
    assert len(held) == len(shown) == 2
    rest = {r.name for r in S390xArch.registers} - set(shown[0])
    assert rest == {
        *(f"acr{i}" for i in range(16)),
        *"pr_pid orig_gpr2 fpc prefix timer todcmp todpreg gs_reserved gsd gssm gsepla".split(),
    }
    values = [{**cpu.registers, **seen} for cpu, seen in zip(held, shown, strict=True)]
    cpus = [Cpu(i, {name: v for name, v in cpu.items() if name != "pr_pid"}) for i, cpu in enumerate(values)]
    assert pack_notes(S390xArch.cpu_notes(cpus, "big", compat="qemu"), "big") == golden


@pytest.mark.parametrize("guest", GUESTS)
def test_pr_pid_is_put_into_the_guests_byte_order(guest: str) -> None:
    golden = unpack_notes((DATA / guest / "notes.bin").read_bytes(), "big")
    pids = [note.desc[32:36] for note in golden if note.name == "CORE" and note.type == 1]
    assert pids == [b"\1\0\0\0", b"\2\0\0\0"]  # QEMU ran on a little-endian host
    corrected = S390xArch.quirks.corrected(golden, "big")
    assert [n.desc[32:36] for n in corrected if n.name == "CORE" and n.type == 1] == [b"\0\0\0\1", b"\0\0\0\2"]
    # Nothing else changes, and right notes stay as they are.
    assert [n.desc[:32] + n.desc[36:] if n.type == 1 else n.desc for n in corrected] == [
        n.desc[:32] + n.desc[36:] if n.type == 1 else n.desc for n in golden
    ]
    assert S390xArch.quirks.corrected(corrected, "big") == corrected
    assert S390xArch.cpu_notes(S390xArch.cpus(corrected, "big"), "big") == corrected
    assert [cpu.registers.get("pr_pid") for cpu in S390xArch.cpus(corrected, "big")] == [None, None]


def test_many_cpus_are_recognised_by_the_first() -> None:
    """CPU 255's pr_pid, 256, is a possible one in either byte order."""
    right = S390xArch.cpu_notes([Cpu(i, {}) for i in range(300)], "big")
    wrong = S390xArch.cpu_notes([Cpu(i, {}) for i in range(300)], "big", compat="qemu")
    assert wrong[255 * 10].desc[32:36] == b"\0\1\0\0"
    assert S390xArch.quirks.corrected(wrong, "big") == right


def test_every_register_lies_where_the_kernels_structs_have_it() -> None:
    def value(name: str, size: int) -> bytes:
        return name.encode()[:size].ljust(size, b"\0")

    def row(names: str, size: int) -> bytes:
        return b"".join(value(name, size) for name in names.split())

    registers = {
        r.name: int.from_bytes(value(r.name, r.bits // 8), "big") for r in S390xArch.registers if r.name != "pr_pid"
    }
    gprs = "r0 r1 r2 r3 r4 r5 r6 r7 r8 r9 r10 r11 r12 r13 r14 r15"
    acrs = "acr0 acr1 acr2 acr3 acr4 acr5 acr6 acr7 acr8 acr9 acr10 acr11 acr12 acr13 acr14 acr15"
    fprs = "f0 f1 f2 f3 f4 f5 f6 f7 f8 f9 f10 f11 f12 f13 f14 f15"
    assert S390xArch.cpu_notes([Cpu(0, registers)], "big") == (
        Note(
            "CORE",
            1,
            bytes(32)
            + b"\0\0\0\1"
            + bytes(76)
            + row(f"psw_mask psw_addr {gprs}", 8)
            + row(acrs, 4)
            + row("orig_gpr2", 8)
            + bytes(8),
        ),
        Note("CORE", 2, b"fpc\0" + bytes(4) + row(fprs, 8)),
        Note("LINUX", 0x305, b"pref"),
        Note("LINUX", 0x304, row(gprs.replace("r", "cr"), 8)),
        Note("LINUX", 0x301, b"timer\0\0\0"),
        Note("LINUX", 0x302, b"todcmp\0\0"),
        Note("LINUX", 0x303, b"todp"),
        Note("LINUX", 0x309, b"".join(value(f"v{i}_low", 8) for i in range(16))),
        Note("LINUX", 0x30A, b"".join(value(f"v{i}", 16) for i in range(16, 32))),
        Note("LINUX", 0x30B, row("gs_reserved gsd gssm gsepla", 8)),
    )


@pytest.mark.parametrize("name", GUESTS)
def test_quirks_state_what_qemus_files_do(name: str) -> None:
    header = (DATA / name / "kdump-header.bin").read_bytes()
    golden = unpack_notes((DATA / name / "notes.bin").read_bytes(), "big")
    stated = Guest(MemoryMap.of([(0, 256 << 20)]), machine=22, byte_order="big", notes=golden)
    settled = S390xArch.complete(stated)
    assert settled.notes != golden
    assert settled.utsname.machine == "s390x"
    guest = S390xArch.quirks.stated(settled)
    assert guest.notes == golden
    assert guest.phys_base == struct.unpack(">q", header[464:472])[0]
    assert guest.page_size == struct.unpack(">I", header[428:432])[0]
    assert guest.utsname == Utsname(machine=header[12:402].replace(b"\0", b"").decode())
