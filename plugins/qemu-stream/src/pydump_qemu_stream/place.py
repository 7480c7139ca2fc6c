"""Where the guest sees the RAM blocks of a stream, which has no addresses: by the machine's type.

Source, for each machine: pc_init1 in hw/i386/pc_piix.c, pc_q35_init in hw/i386/pc_q35.c, hw/i386/microvm.c,
hw/arm/virt.c, hw/riscv/virt.c, hw/s390x/s390-virtio-ccw.c, hw/ppc/spapr.c of QEMU 7.2 and 10.0; checked against
``info mtree`` of both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from pydump.errors import PlanError
from pydump.model.memory import Ranges
from pydump_qemu_stream.ram import Block

GIB: Final = 1 << 30
FOUR_GIB: Final = 4 << 30
#: Blocks that are a machine's RAM, by the names that QEMU gives them.
MAIN: Final = frozenset({"pc.ram", "mach-virt.ram", "s390.ram", "ppc_spapr.ram", "riscv_virt_board.ram", "microvm.ram"})
#: Blocks that are no RAM of the guest's kernel: firmware, tables, flash, memory of devices.
OTHER: Final = re.compile(r"/rom@|.*(?:\.bios|\.rom|\.mrom|flash\d*|vram|vgamem|vga.*)$|ramfb|.*\.(?:mmio|romdata)$")
VGA: Final = re.compile(r".*vga", re.IGNORECASE)
#: Nodes of NUMA, as libvirt calls their memory.
NODE: Final = re.compile(r"(?:/objects/)?ram-node(\d+)")
#: Of PCs: RAM of this size and more is split at that address, below 4 GiB; the rest begins at 4 GiB.
PC_SPLITS: Final = (
    (re.compile(r"pc-i440fx-1\.[0-7]$|pc-[01]\."), 0xE0000000, 0xE0000000),
    (re.compile(r"pc-q35-|q35$"), 0xB0000000, 0x80000000),
    (re.compile(r"microvm"), 0xC0000001, 0xC0000000),
    (re.compile(r"pc|isapc|xenfv"), 0xE0000000, 0xC0000000),
)
#: Where RAM begins elsewhere, by a machine's name and the architecture, empty if it is not known. Arm's virt
#: has a version in its name, and RISC-V's has none.
BASES: Final = (
    (re.compile(r"virt(-|$)"), ("aarch64", "arm"), 0x40000000),
    (re.compile(r"virt-\d"), ("",), 0x40000000),
    (re.compile(r"virt(-|$)"), ("riscv64", "riscv32"), 0x80000000),
    (re.compile(r"s390-ccw-virtio"), ("s390x", ""), 0),
    (re.compile(r"pseries"), ("ppc64", ""), 0),
)
#: The boot ROM of RISC-V's virt, which QEMU's dumps hold as well.
RISCV_ROM: Final = ("riscv_virt_board.mrom", 0x1000)
#: VGA's memory; RAM in a PC without it.
VGA_HOLE: Final = (0xA0000, 0xC0000)
#: Below 1 MiB, ROM or RAM: pieces of 16 KiB from here on and one of 64 KiB, as the host bridge says in seven bytes.
#: Source: hw/pci-host/pam.c; I440FX_PAM and MCH_HOST_BRIDGE_PAM0.
SHADOW: Final = 0xC0000
ONE_MIB: Final = 0x100000
#: The name of a piece of which it is not known what block the guest sees there.
UNKNOWN: Final = "RAM or firmware"
PAM: Final = {"I440FX": 0x59, "mch": 0x90}
PAM_READ: Final = 1
#: An AMD guest whose RAM would reach this address has what lies above 4 GiB at 1 TiB. Source: AMD_HT_START.
AMD_HOLE: Final = 0xFD00000000


class Piece(NamedTuple):
    """A part of a block, and where the guest sees it; addresses and sizes in bytes."""

    paddr: int
    size: int
    block: str
    offset: int


@dataclass(frozen=True, slots=True)
class Hotplugged:
    """The memory of a virtio-mem device.

    Attributes:
        paddr: Where its block begins.
        plugged: What of the block is plugged in.
    """

    paddr: int
    plugged: Ranges


@dataclass(frozen=True, slots=True)
class Machine:
    """What is known of a machine.

    Attributes:
        name: Its type: ``pc-q35-7.2``.
        arch: Its architecture; empty where it is not known.
        blocks: Its RAM blocks.
        shadow: Of a PC: the seven bytes that say what below 1 MiB is ROM; empty where they are not known.
        hotplugged: The memory of virtio-mem devices, by block.
        dimms: The addresses of memory devices, by block, as libvirt states them.
    """

    name: str
    arch: str
    blocks: Sequence[Block]
    shadow: bytes = b""
    hotplugged: Mapping[str, Hotplugged] = field(default_factory=dict)
    dimms: Mapping[str, int] = field(default_factory=dict)


def parse_places(text: str, blocks: Sequence[Block]) -> list[Piece]:
    """What ``--qemu-place`` says: ``BLOCK=ADDR[,OFFSET,SIZE]``, several with ``+`` between them.

    Raises:
        PlanError: It says nothing that can be.
    """
    sizes = {block.name: block.size for block in blocks}
    pieces = []
    for one in text.split("+") if text else ():
        name, equals, numbers = one.rpartition("=")
        if name not in sizes:
            raise PlanError(f"--qemu-place: there is no RAM block {name!r}", hint=f"the blocks are {', '.join(sizes)}")
        values = [_number(number) for number in numbers.split(",")]
        if not equals or len(values) not in (1, 3):
            raise PlanError(f"--qemu-place: {one!r} is not BLOCK=ADDR[,OFFSET,SIZE]")
        paddr, offset, size = values if len(values) == 3 else (values[0], 0, sizes[name])
        if not size or offset + size > sizes[name] or paddr + size > 1 << 64:
            raise PlanError(f"--qemu-place: the block {name!r} has {sizes[name]:#x} bytes, which {one!r} exceeds")
        pieces.append(Piece(paddr, size, name, offset))
    return pieces


def _number(text: str) -> int:
    match = re.fullmatch(r"(0x[0-9a-fA-F]+|\d+)([KMGT]?)", text.strip())
    if match is None:
        raise PlanError(f"--qemu-place: {text!r} is not a number", hint="write it as 4G or 0x100000000")
    return int(match[1], 0) << 10 * "_KMGT".index(match[2] or "_")


def place(machine: Machine, given: Sequence[Piece]) -> tuple[list[Piece], list[str]]:
    """Where the guest sees its RAM.

    Args:
        machine: What is known.
        given: Where the user says that blocks are, instead of what is known.

    Returns:
        Pieces in ascending addresses, and warnings, a line each.

    Raises:
        PlanError: It is not known, or pieces overlap.
    """
    named = {piece.block for piece in given}
    candidates = [b for b in machine.blocks if b.size and b.name not in named and not OTHER.match(b.name)]
    main = _main(candidates, machine, bool(given))
    pieces = [*given]
    warnings: list[str] = []
    rest = [block for block in candidates if block not in main]
    if main:
        laid, fault = _lay(machine, main)
        pieces += laid
        warnings += fault
    pieces += _roms(machine, named)
    for block in [*rest]:
        plugged = machine.hotplugged.get(block.name)
        if plugged is not None:
            pieces += [Piece(plugged.paddr + a, b - a, block.name, a) for a, b in plugged.plugged.clip(0, block.size)]
            rest.remove(block)
        elif block.name in machine.dimms:
            pieces.append(Piece(machine.dimms[block.name], block.size, block.name, 0))
            rest.remove(block)
    more, faults = _devices(machine, rest, pieces, sum(block.size for block in main))
    pieces = sorted(pieces + more)
    for low, high in zip(pieces, pieces[1:], strict=False):
        if low.paddr + low.size > high.paddr:
            raise PlanError(
                f"the RAM blocks {low.block} and {high.block} overlap at {high.paddr:#x}", hint="use --qemu-place"
            )
    if not pieces:
        raise PlanError("the stream has no RAM", hint="use --qemu-place")
    return pieces, warnings + faults


def _main(candidates: Sequence[Block], machine: Machine, given: bool) -> list[Block]:
    """The blocks that are the machine's RAM, in the order in which it lies.

    Raises:
        PlanError: There are several, and nothing says which.
    """
    known = [block for block in candidates if block.name in MAIN]
    if known:
        return known[:1]
    nodes = [(int(match[1]), block) for block in candidates if (match := NODE.fullmatch(block.name))]
    if nodes:
        return [block for _, block in sorted(nodes, key=lambda node: node[0])]
    bare = [
        b for b in candidates if ("/" not in b.name or b.name.startswith("/objects/")) and b.name not in machine.dimms
    ]
    if len(bare) == 1 or not bare:
        return bare
    if given:  # the user says what is where, and the others are memory devices
        return []
    names = ", ".join(block.name for block in bare)
    raise PlanError(
        f"the file does not say which of the RAM blocks {names} is the machine's, or in which order",
        hint="use --qemu-place BLOCK=ADDR+BLOCK=ADDR",
    )


def _lay(machine: Machine, main: Sequence[Block]) -> tuple[list[Piece], list[str]]:
    """Where the machine's RAM lies, blocks of NUMA nodes one behind the other."""
    size = sum(block.size for block in main)
    for pattern, most, split in PC_SPLITS:
        if pattern.match(machine.name) and machine.arch in ("x86_64", "i386", ""):
            warnings = []
            if size >= most:
                places = [(0, split), (FOUR_GIB, size - split)]
                if FOUR_GIB + size - split > AMD_HOLE:
                    warnings.append("RAM above 4 GiB of an AMD guest of this size is at 1 TiB: use --qemu-place")
            else:
                places = [(0, size)]
            return _with_holes(machine, _cut(main, places)), warnings
    for pattern, arches, base in BASES:
        if pattern.match(machine.name) and machine.arch in arches:
            return _cut(main, [(base, size)]), []
    names = "+".join(f"{block.name}=ADDR" for block in main)
    what = f"the machine {machine.name!r}" if machine.name else "this machine"
    raise PlanError(f"pydump does not know where {what} has its RAM", hint=f"use --qemu-place {names}")


def _cut(blocks: Iterable[Block], places: Iterable[tuple[int, int]]) -> list[Piece]:
    """Blocks that follow each other, at places that follow each other."""
    pieces = []
    left = [[paddr, size] for paddr, size in places]
    for block in blocks:
        offset = 0
        while offset < block.size and left:
            paddr, room = left[0]
            size = min(room, block.size - offset)
            if size:
                pieces.append(Piece(paddr, size, block.name, offset))
            offset += size
            left[0] = [paddr + size, room - size]
            if room == size:
                left.pop(0)
    return pieces


def _with_holes(machine: Machine, pieces: Sequence[Piece]) -> list[Piece]:
    """A PC's RAM without what VGA and ROM hide."""
    hidden = []
    if any(VGA.match(block.name) for block in machine.blocks):
        hidden.append(VGA_HOLE)
    hidden += [(rom.paddr, rom.paddr + rom.size) for rom in _roms(machine, frozenset())]
    found = []
    for piece in pieces:
        for start, end in Ranges.of([(piece.paddr, piece.paddr + piece.size)]).subtract(Ranges.of(hidden)):
            found.append(piece._replace(paddr=start, size=end - start, offset=piece.offset + start - piece.paddr))
    return found


def _shadowed(machine: Machine) -> list[tuple[int, int]]:
    """``(start, size)`` of what below 1 MiB reads as ROM if there is any; nothing where that is not known."""
    if machine.name.startswith("microvm"):  # neither has a host bridge that could hide its ROM
        bios = min(0x20000, next((block.size for block in machine.blocks if block.name == "pc.bios"), 0))
        return [(0x100000 - bios, bios)]
    if machine.name.startswith("isapc"):
        return [(SHADOW, 0x40000)]
    if len(machine.shadow) != 7:
        return []
    nibbles = [nibble for byte in machine.shadow[1:] for nibble in (byte & 15, byte >> 4)]
    pieces = [(SHADOW + 0x4000 * i, 0x4000) for i, nibble in enumerate(nibbles) if not nibble & PAM_READ]
    if not machine.shadow[0] >> 4 & PAM_READ:
        pieces.append((0xF0000, 0x10000))
    return pieces


def with_unknown(machine: Machine, pieces: Sequence[Piece]) -> list[Piece]:
    """``pieces`` with :data:`UNKNOWN` where a PC has firmware or RAM, and the host bridge's state does not say which.

    Args:
        machine: What is known.
        pieces: Where the guest sees its RAM, ascending.
    """
    is_pc = any(pattern.match(machine.name) for pattern, _, _ in PC_SPLITS)
    if not is_pc or machine.name.startswith(("microvm", "isapc")) or len(machine.shadow) == 7:
        return list(pieces)
    unknown = Ranges.of([(SHADOW, ONE_MIB)])
    found = [
        piece._replace(paddr=start, size=end - start, offset=piece.offset + start - piece.paddr)
        for piece in pieces
        for start, end in Ranges.of([(piece.paddr, piece.paddr + piece.size)]).subtract(unknown)
    ]
    return sorted([*found, Piece(SHADOW, ONE_MIB - SHADOW, UNKNOWN, 0)])


def _roms(machine: Machine, named: Set[str]) -> list[Piece]:
    """The firmware that QEMU's own dumps hold: what hides RAM below 1 MiB, and a copy that ends at 4 GiB."""
    sizes = {block.name: block.size for block in machine.blocks}
    found = []
    name, paddr = RISCV_ROM
    if name in sizes and name not in named:
        found.append(Piece(paddr, sizes[name], name, 0))
    bios = sizes.get("pc.bios", 0)
    if bios and "pc.bios" not in named:
        found.append(Piece(FOUR_GIB - bios, bios, "pc.bios", 0))
        low = min(bios, 0x20000)
        shadowed = Ranges.of((start, start + size) for start, size in _shadowed(machine))
        for start, end in shadowed.clip(0x100000 - low, 0x100000):
            found.append(Piece(start, end - start, "pc.bios", bios - (0x100000 - start)))
        for start, end in shadowed.clip(SHADOW, min(SHADOW + sizes.get("pc.rom", 0), 0x100000 - low)):
            found.append(Piece(start, end - start, "pc.rom", start - SHADOW))
    return found


def _devices(
    machine: Machine, blocks: Sequence[Block], placed: Sequence[Piece], ram: int
) -> tuple[list[Piece], list[str]]:
    """Memory devices whose address is not stated.

    A machine has one region for them. One alone lies at its beginning, unless it was given another address.
    """
    if not blocks:
        return [], []
    base = 0
    if machine.arch in ("x86_64", "i386"):
        end = max(
            (p.paddr + p.size for p in placed if p.paddr >= FOUR_GIB and p.block not in machine.hotplugged), default=0
        )
        base = -(-max(end, FOUR_GIB) // GIB) * GIB
    elif machine.arch == "aarch64":
        base = -(-(0x40000000 + ram) // GIB) * GIB
    (block, *others) = blocks
    taken = Ranges.of((p.paddr, p.paddr + p.size) for p in placed)
    if base and not others and "/" not in block.name and not taken.clip(base, base + block.size):
        warning = f"the RAM block {block.name} is taken to be at {base:#x}, where a machine's first memory device is"
        return [Piece(base, block.size, block.name, 0)], [f"{warning}: use --qemu-place if it is not"]
    names = "+".join(f"{block.name}=ADDR" for block in blocks)
    return [], [
        f"the file does not say where the guest sees the RAM of {names[:200]}: left out; use --qemu-place {names}"
    ]
