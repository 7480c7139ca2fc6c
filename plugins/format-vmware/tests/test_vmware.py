"""VMware states: memory by regions, in the state or beside it, and the registers of each CPU."""

from __future__ import annotations

import contextlib
import os
import random
import struct
from pathlib import Path

import pytest

import pydump
from pydump.errors import FormatError, PydumpError, UnsupportedError
from pydump.model.memory import Ranges
from pydump.testing.format import FormatTests
from pydump_format_vmware import VmwareFormat

PAGE = 4096
#: Source: crash, struct vmssregs64 of vmware_vmss.h.
GENERAL = "rax rcx rdx rbx rbp rsp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15".split()
MEMORY = random.Random(1).randbytes(16 * PAGE)
#: paddr, offset in the file and size of what the regions below say.
REGIONS = [(0, 0, 10 * PAGE), (1 << 32, 10 * PAGE, 6 * PAGE)]


def tag(name: str, value: int, *indices: int, size: int = 4) -> bytes:
    """Source: crash, vmware_vmss.h: name length, index count and value size."""
    head = bytes([size | len(indices) << 6, len(name)]) + name.encode()
    return head + struct.pack(f"<{len(indices)}I", *indices) + value.to_bytes(size, "little")


def block(name: str, data: bytes, *indices: int, pad: int = 0, size: int = 63) -> bytes:
    head = bytes([size | len(indices) << 6, len(name)]) + name.encode() + struct.pack(f"<{len(indices)}I", *indices)
    return head + struct.pack("<QQH", len(data), len(data), pad) + bytes(pad) + data


def state(groups: dict[str, bytes], magic: int = 0xBED2BED2) -> bytes:
    at = 12 + 80 * len(groups)
    table, body = b"", b""
    for name, tags in groups.items():
        data = tags + b"\0\0"
        table += struct.pack("<64sQQ", name.encode(), at + len(body), len(data))
        body += data
    return struct.pack("<III", magic, 8, len(groups)) + table + body


def regions(rows: list[tuple[int, int, int]] = REGIONS) -> bytes:
    data = tag("regionsCount", len(rows))
    for i, (paddr, offset, size) in enumerate(rows):
        data += tag("regionPPN", paddr // PAGE, i, size=8) + tag("regionPageNum", offset // PAGE, i)
        data += tag("regionSize", size // PAGE, i)
    return data


def cpu(number: int) -> tuple[bytes, dict[str, int]]:
    """Tags of a CPU, as blocks for the first and one by one for others, and its registers."""
    chance = random.Random(number)
    values = {name: chance.getrandbits(64) for name in (*GENERAL, "rip", "idt_base", "fs_base", "gs_base")}
    values |= {f"cr{i}": chance.getrandbits(64) for i in (0, 2, 3, 4)} | {"rflags": 0x246, "cs": 16, "ss": 24}
    crs = [values.get(f"cr{i}", 0) for i in range(9)]
    data = tag("rip", values["rip"], number, size=8) + tag("eflags", values["rflags"], number)
    if number == 0:
        data += block("gpregs", struct.pack("<16Q", *(values[name] for name in GENERAL)), number)
        data += block("CR64", struct.pack("<9Q", *crs), number)
        data += block("IDTR", struct.pack("<HQ", 4095, values["idt_base"]), number)
    else:
        data += b"".join(tag(name, values[name], number, size=8) for name in GENERAL)
        data += b"".join(tag("CR64", value, number, i, size=8) for i, value in enumerate(crs))
        data += tag("IDTR", values["idt_base"] & 0xFFFFFFFF, number, 1) + tag(
            "IDTR", values["idt_base"] >> 32, number, 2
        )
    for i, name in enumerate("es cs ss ds fs gs ldt tr".split()):
        data += tag("S", values.get(name, 0), number, i, size=2)
        data += tag("S.base64", values.get(f"{name}_base", 0), number, i, size=8)
    return data, values


def write(directory: Path, data: bytes, memory: bytes | None = MEMORY, name: str = "guest.vmss") -> Path:
    path = directory / name
    path.write_bytes(data)
    if memory is not None:
        path.with_suffix(".vmem").write_bytes(memory)
    return path


def held(dump: pydump.Dump) -> None:
    for paddr, offset, size in REGIONS:
        assert dump.read(paddr, size) == MEMORY[offset : offset + size]


@pytest.mark.parametrize("magic", [0xBED2BED2, 0xBED3BED3, 0xBAD1BAD1, 0xBAD2BAD2])
@pytest.mark.parametrize("name", ["guest.vmss", "guest-Snapshot1.vmsn"])
def test_memory_beside_the_state(magic: int, name: str, tmp_path: Path) -> None:
    path = write(tmp_path, state({"timer": tag("x", 1), "memory": regions()}, magic), name=name)
    with pydump.open(path, arch="x86_64") as dump:
        assert [(part.paddr, part.end) for part in dump.guest.memory] == [(p, p + size) for p, _, size in REGIONS]
        held(dump)


@pytest.mark.parametrize("pad", [0, 7, PAGE])
def test_memory_in_the_state(pad: int, tmp_path: Path) -> None:
    data = state({"memory": block("Memory", MEMORY, pad=pad) + regions()})
    with pydump.open(write(tmp_path, data, None), arch="x86_64") as dump:
        held(dump)


def test_a_pc_whose_regions_are_not_stated(tmp_path: Path) -> None:
    """VMware leaves a hole from 3 to 4 GiB. Source: VMware's description of .vmem, and Volatility 3's issue 1325."""
    path = write(tmp_path, state({"memory": tag("regionsCount", 0)}), None)
    with path.with_suffix(".vmem").open("wb") as memory:
        memory.seek((3 << 30) - PAGE)
        memory.write(MEMORY[: 2 * PAGE])
    with pydump.open(path, arch="x86_64") as dump:
        assert [(part.paddr, part.end) for part in dump.guest.memory] == [(0, 3 << 30), (1 << 32, (1 << 32) + PAGE)]
        assert dump.read((3 << 30) - PAGE, PAGE) == MEMORY[:PAGE]
        assert dump.read(1 << 32, PAGE) == MEMORY[PAGE : 2 * PAGE]


def test_registers_become_notes(tmp_path: Path) -> None:
    cpus = [cpu(0), cpu(1)]
    tags = tag("cpu:numVCPUs", 2) + b"".join(data for data, _ in cpus)
    path = write(tmp_path, state({"cpu": tags, "memory": regions()}))
    pydump.dump(path, tmp_path / "out", format="elf")
    for source in (path, tmp_path / "out"):
        with pydump.open(source) as dump:
            assert dump.guest.n_cpus == 2
            for found, (_, values) in zip(dump.cpus, cpus, strict=True):
                assert {name: found.registers[name] for name in values} == values
            held(dump)


def test_registers_that_the_state_lacks_are_said(tmp_path: Path) -> None:
    path = write(tmp_path, state({"cpu": tag("rip", 0x1234, 0, size=8), "memory": regions()}))
    with pydump.open(path) as dump:
        assert dump.cpus[0].registers["rip"] == 0x1234
        assert any("are 0 in the notes" in line and "r15" in line for line in dump.warnings)


def test_memory_that_is_nowhere(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"there is no guest.vmem; put the .vmem beside"):
        pydump.open(write(tmp_path, state({"memory": regions()}), None), arch="x86_64")


def test_compressed_memory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="compressed"):
        pydump.open(write(tmp_path, state({"memory": block("Memory", MEMORY, size=62)}), None), arch="x86_64")


def test_a_cut_vmem_reads_what_is_there(tmp_path: Path) -> None:
    path = write(tmp_path, state({"memory": regions()}), MEMORY[: 12 * PAGE + 5])
    with pydump.open(path, arch="x86_64") as dump:
        assert dump.image.unreadable() == Ranges.of([((1 << 32) + 2 * PAGE + 5, (1 << 32) + 6 * PAGE)])
        assert dump.read(1 << 32, 2 * PAGE) == MEMORY[10 * PAGE : 12 * PAGE]
        assert any("cut off" in line for line in dump.image.warnings())


@pytest.mark.parametrize("cut", [13, 95, 180, 200, 220])
def test_a_cut_state_gives_memory_or_an_error(cut: int, tmp_path: Path) -> None:
    path = write(tmp_path, state({"memory": regions()})[:cut])
    with contextlib.suppress(FormatError), pydump.open(path, arch="x86_64") as dump:
        assert dump.image.warnings()
        assert dump.read(0, PAGE) == MEMORY[:PAGE]


@pytest.mark.parametrize(
    ("groups", "why"),
    [
        ({"cpu": b""}, "no group memory"),
        ({"memory": regions([(1 << 53, 0, PAGE)])}, "larger than any guest"),
        ({"memory": regions([(0, 0, 0xFFFFFFFF * PAGE)] * 9)}, "larger than any guest"),
    ],
)
def test_what_cannot_be_is_refused(groups: dict[str, bytes], why: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=why):
        pydump.open(write(tmp_path, state(groups)), arch="x86_64")


def test_random_damage_gives_memory_or_an_error(tmp_path: Path) -> None:
    data = state({"cpu": cpu(0)[0] + cpu(1)[0], "memory": regions()})
    chance = random.Random(1)
    for _ in range(int(os.environ.get("PYDUMP_CUTS", "50"))):
        broken = bytearray(data)
        for _ in range(3):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        path = write(tmp_path, bytes(broken))
        with contextlib.suppress(PydumpError), pydump.open(path, arch="x86_64") as dump:
            for start, end in dump.stated.memory.ranges().subtract(dump.image.unreadable()):
                dump.read(start, min(end - start, 1 << 16))


class TestVmwareFormat(FormatTests):
    """The conformance kit, with a state made by hand: nothing writes one."""

    format = VmwareFormat

    def example(self, tmp_path: Path) -> tuple[Path, dict[int, bytes]]:
        # The kit copies the file, and nothing beside it.
        memory = block("Memory", MEMORY) + regions()
        path = write(tmp_path, state({"cpu": cpu(0)[0] + cpu(1)[0], "memory": memory}), None)
        return path, {paddr: MEMORY[offset : offset + size] for paddr, offset, size in REGIONS}
