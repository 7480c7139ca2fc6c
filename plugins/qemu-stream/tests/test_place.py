"""Where machines have their RAM. Expected: what ``info mtree -f`` of QEMU 7.2 prints for the same command line."""

from __future__ import annotations

import pytest

from pydump.errors import PlanError
from pydump.model.memory import Ranges
from pydump_qemu_stream.place import Hotplugged, Machine, Piece, parse_places, place
from pydump_qemu_stream.ram import Block

MIB, GIB = 1 << 20, 1 << 30


def blocks(**sizes: int) -> list[Block]:
    return [Block(name.replace("__", "/").replace("_", "."), size, 4096) for name, size in sizes.items()]


def placed(machine: Machine, given: str = "") -> list[tuple[int, int, str, int]]:
    return [tuple(piece) for piece in place(machine, parse_places(given, machine.blocks))[0]]  # type: ignore[misc]


@pytest.mark.parametrize(
    ("machine", "arch", "name", "size", "expected"),
    [
        ("pc-q35-7.2", "x86_64", "pc.ram", 2815 * MIB, [(0, 2815 * MIB, 0)]),
        ("pc-q35-7.2", "i386", "pc.ram", 2816 * MIB, [(0, 2 * GIB, 0), (4 * GIB, 768 * MIB, 2 * GIB)]),
        ("pc-i440fx-7.2", "x86_64", "pc.ram", 3583 * MIB, [(0, 3583 * MIB, 0)]),
        ("pc-i440fx-jammy", "x86_64", "pc.ram", 3584 * MIB, [(0, 3 * GIB, 0), (4 * GIB, 512 * MIB, 3 * GIB)]),
        ("pc-i440fx-1.7", "x86_64", "pc.ram", 4 * GIB, [(0, 0xE0000000, 0), (4 * GIB, 512 * MIB, 0xE0000000)]),
        ("microvm", "x86_64", "microvm.ram", 3 * GIB, [(0, 3 * GIB, 0)]),
        ("microvm", "x86_64", "microvm.ram", 3073 * MIB, [(0, 3 * GIB, 0), (4 * GIB, MIB, 3 * GIB)]),
        ("virt-10.0", "aarch64", "mach-virt.ram", 5 * GIB, [(GIB, 5 * GIB, 0)]),
        ("virt-7.2", "arm", "ram0", GIB, [(GIB, GIB, 0)]),
        ("virt", "riscv64", "riscv_virt_board.ram", 5 * GIB, [(2 * GIB, 5 * GIB, 0)]),
        ("s390-ccw-virtio-7.2", "s390x", "s390.ram", 5 * GIB, [(0, 5 * GIB, 0)]),
        ("pseries-7.2", "ppc64", "ppc_spapr.ram", 5 * GIB, [(0, 5 * GIB, 0)]),
    ],
)
def test_ram_of_a_machine(machine: str, arch: str, name: str, size: int, expected: list[tuple[int, int, int]]) -> None:
    found = placed(Machine(machine, arch, [Block(name, size, 4096)]))
    assert found == [(paddr, n, name, offset) for paddr, n, offset in expected]


def test_nodes_of_numa_follow_each_other() -> None:
    """QEMU lists blocks by their size; libvirt calls those of nodes by their number."""
    machine = Machine("pc-q35-7.2", "x86_64", [Block("ram-node1", 3 * GIB, 4096), Block("ram-node0", GIB, 4096)])
    assert placed(machine) == [
        (0, GIB, "ram-node0", 0),
        (GIB, GIB, "ram-node1", 0),
        (4 * GIB, 2 * GIB, "ram-node1", GIB),
    ]


def test_what_nobody_says_is_asked_for() -> None:
    machine = Machine("pc-q35-7.2", "x86_64", blocks(m1=GIB, m0=3 * GIB))
    with pytest.raises(PlanError, match="which of the RAM blocks m1, m0 is the machine's") as caught:
        placed(machine)
    assert caught.value.hint == "use --qemu-place BLOCK=ADDR+BLOCK=ADDR"
    assert placed(machine, "m1=0+m0=1G,0,1G+m0=4G,1G,2G") == [
        (0, GIB, "m1", 0),
        (GIB, GIB, "m0", 0),
        (4 * GIB, 2 * GIB, "m0", GIB),
    ]
    for name in ("vexpress-a15", ""):
        with pytest.raises(PlanError, match="does not know where"):
            placed(Machine(name, "arm", blocks(ram=GIB)))
    assert placed(Machine("vexpress-a15", "arm", blocks(ram=GIB)), "ram=0x80000000") == [(2 * GIB, GIB, "ram", 0)]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("ran=0", "no RAM block 'ran'"), ("ram", "no RAM block ''"), ("ram=", "'' is not a number"),
        ("ram=0,1", "is not BLOCK=ADDR"), ("ram=0,0,2G", "which 'ram=0,0,2G' exceeds"), ("ram=0,0,0", "exceeds"),
        ("ram=1GB", "'1GB' is not a number"), ("ram=0xffffffffffffffff", "exceeds"), ("ram=-1", "not a number"),
        ("ram=0+ram=512M", "overlap at 0x20000000"),
    ],
)  # fmt: skip
def test_a_place_that_cannot_be_is_refused(given: str, why: str) -> None:
    with pytest.raises(PlanError, match=why):
        placed(Machine("virt", "aarch64", blocks(ram=GIB)), given)


#: pc.rom and pc.bios of a PC with SeaBIOS.
PC = {"pc_ram": 64 * MIB, "pc_bios": 256 << 10, "pc_rom": 128 << 10}


def test_a_pc_that_has_not_switched_shadow_ram_on() -> None:
    machine = Machine("pc-i440fx-7.2", "i386", blocks(**PC), shadow=bytes(7))
    assert placed(machine) == [
        (0, 0xC0000, "pc.ram", 0),
        (0xC0000, 0x20000, "pc.rom", 0),
        (0xE0000, 0x20000, "pc.bios", 0x20000),
        (0x100000, 63 * MIB, "pc.ram", MIB),
        (0xFFFC0000, 0x40000, "pc.bios", 0),
    ]


def test_a_pc_with_a_part_of_its_shadow_ram() -> None:
    """Bit 0 of each four makes 16 KiB RAM for reading; SeaBIOS leaves option ROMs it has not copied."""
    shadow = bytes([0x10, 0x33, 0x03, 0, 0, 0x11, 0x11])
    assert placed(Machine("pc-q35-7.2", "x86_64", blocks(**PC), shadow)) == [
        (0, 0xCC000, "pc.ram", 0),
        (0xCC000, 0x14000, "pc.rom", 0xC000),
        (0xE0000, 64 * MIB - 0xE0000, "pc.ram", 0xE0000),
        (0xFFFC0000, 0x40000, "pc.bios", 0),
    ]


def test_ram_is_hidden_only_by_rom_that_is_there() -> None:
    small = blocks(pc_ram=64 * MIB, pc_bios=64 << 10, pc_rom=128 << 10)
    assert placed(Machine("pc-q35-7.2", "x86_64", small, shadow=bytes(7)))[1:4] == [
        (0xC0000, 0x20000, "pc.rom", 0),
        (0xE0000, 0x10000, "pc.ram", 0xE0000),
        (0xF0000, 0x10000, "pc.bios", 0),
    ]


def test_vga_hides_ram() -> None:
    machine = Machine(
        "pc-q35-7.2", "x86_64", blocks(**PC, **{"0000:00:02_0__vga_vram": 16 * MIB}), bytes([0x10, *[0x33] * 6])
    )
    assert placed(machine)[:2] == [(0, 0xA0000, "pc.ram", 0), (0xC0000, 64 * MIB - 0xC0000, "pc.ram", 0xC0000)]


def test_microvm_and_isapc_always_show_their_rom() -> None:
    bios = blocks(microvm_ram=64 * MIB, pc_bios=0x10000)
    assert placed(Machine("microvm", "x86_64", bios)) == [
        (0, 0xF0000, "microvm.ram", 0),
        (0xF0000, 0x10000, "pc.bios", 0),
        (0x100000, 63 * MIB, "microvm.ram", MIB),
        (0xFFFF0000, 0x10000, "pc.bios", 0),
    ]
    assert [piece[2] for piece in placed(Machine("isapc", "i386", blocks(**PC)))] == [
        "pc.ram", "pc.rom", "pc.bios", "pc.ram", "pc.bios",
    ]  # fmt: skip


def test_memory_devices() -> None:
    four = [Block("pc.ram", 4 * GIB, 4096)]
    dimm = Block("d1", GIB, 4096)
    alone = Machine("pc-q35-7.2", "x86_64", [*four, dimm])
    pieces, (warning,) = place(alone, [])
    assert pieces[-1] == Piece(6 * GIB, GIB, "d1", 0)
    assert "use --qemu-place" in warning
    said = Machine("pc-q35-7.2", "x86_64", [*four, dimm], dimms={"d1": 7 * GIB})
    assert place(said, []) == ([*pieces[:-1], Piece(7 * GIB, GIB, "d1", 0)], [])
    two = Machine("pc-q35-7.2", "x86_64", [*four, dimm, Block("d2", GIB, 4096)])
    pieces, (warning,) = place(two, [])
    assert {piece.block for piece in pieces} == {"pc.ram"}
    assert "does not say where the guest sees the RAM of d1=ADDR+d2=ADDR" in warning
    plugged = Hotplugged(8 * GIB, Ranges.of([(0, 4 * MIB), (8 * MIB, 10 * MIB)]))
    block = Block("0000:00:01.0/v1", GIB, 4096)
    virtio = Machine("pc-q35-7.2", "x86_64", [*four, block], hotplugged={block.name: plugged})
    assert place(virtio, [])[0][-2:] == [
        Piece(8 * GIB, 4 * MIB, block.name, 0),
        Piece(8 * GIB + 8 * MIB, 2 * MIB, block.name, 8 * MIB),
    ]


def test_memory_at_the_addresses_of_an_amd_guest_is_warned_of() -> None:
    _, (warning,) = place(Machine("pc-q35-7.2", "x86_64", [Block("pc.ram", 1 << 40, 4096)]), [])
    assert "AMD" in warning
