"""Kernel addresses of booted guests translate as drgn, libkdumpfile and QEMU translate them."""

from __future__ import annotations

import json
import random
import re
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from judges import require
from lab.boot import Guest

import pydump
from pydump.interfaces.arch import AddressSpace, Mapping
from pydump.model.memory import Ranges
from pydump.registry import installed

ARCHES = ("x86_64", "i386", "aarch64", "s390x", "ppc64", "riscv64")

#: Reads addresses from standard input and prints what it takes them for; None for those it says are not mapped.
DRGN = """
import json, sys
import drgn
from _drgn import _linux_helper_follow_phys as follow
prog = drgn.Program()
prog.set_core_dump(sys.argv[1])
if sys.argv[3:]:
    prog.load_debug_info(sys.argv[3:])
found = []
for vaddr in json.load(sys.stdin):
    try:
        found.append(int(follow(prog, int(sys.argv[2], 0), vaddr)))
    except drgn.FaultError:
        found.append(None)
print(json.dumps(found))
"""
LIBKDUMPFILE = """
import json, sys
import addrxlat, kdumpfile
context = kdumpfile.Context()
context.open(sys.argv[1])
context.attr["addrxlat.ostype"] = "linux"
how = context.get_addrxlat()
found = []
for vaddr in json.load(sys.stdin):
    address = addrxlat.FullAddress(addrxlat.KVADDR, vaddr)
    try:
        address.conv(addrxlat.KPHYSADDR, *how)
        found.append(address.addr)
    except (addrxlat.NotPresentError, addrxlat.NoMethodError):
        found.append(None)
print(json.dumps(found))
"""
#: Who judges which architecture: drgn does not walk i386's and riscv64's tables.
JUDGES = {arch: LIBKDUMPFILE if arch in ("i386", "riscv64") else DRGN for arch in ARCHES}


@dataclass(frozen=True)
class Opened:
    """A guest, our dump of it, and its kernel's address space."""

    guest: Guest
    dump: pydump.Dump
    path: Path
    space: AddressSpace
    mappings: list[Mapping]


@pytest.fixture(scope="module", params=ARCHES)
def opened(
    request: pytest.FixtureRequest,
    guest: Callable[[str], Guest],
    pydump: Callable[..., object],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Opened]:
    found = guest(request.param)
    path = tmp_path_factory.mktemp("ours") / f"{found.arch}.elf"
    pydump("dump", found.elf, path, "--format", "elf")
    with open_dump(path) as dump:
        space = dump.address_space()
        yield Opened(found, dump, path, space, list(space.mappings()))
    path.unlink()


def open_dump(path: Path) -> pydump.Dump:
    return pydump.open(str(path))


def space_of_cpu(dump: pydump.Dump, index: int) -> AddressSpace:
    """What one CPU's registers say, as QEMU knows no more."""
    guest = dump.guest
    assert guest.arch is not None
    assert guest.byte_order is not None
    arch = installed().arch(guest.arch)
    notes = arch.cpu_notes([dump.cpus[index]], guest.byte_order)
    space = arch.address_space(replace(guest, vmcoreinfo=None, notes=notes), dump.read)
    assert space is not None
    return space


def sample(mappings: list[Mapping]) -> list[int]:
    """The ends of up to 60 mappings of each 64 GiB region, an address within, and those just outside."""
    regions: dict[int, list[Mapping]] = {}
    for mapping in mappings:
        regions.setdefault(mapping.vaddr >> 36, []).append(mapping)
    chance = random.Random(1)
    found = set()
    for region in regions.values():
        for m in chance.sample(region, min(len(region), 60)):
            end = m.vaddr + m.size
            found |= {m.vaddr - 1, m.vaddr, m.vaddr + chance.randrange(m.size), end - 1, end}
    # 0 is no address to drgn.
    return sorted(vaddr for vaddr in found if 0 < vaddr < 1 << 64)


def test_translate_agrees(opened: Opened) -> None:
    arch, info = opened.guest.arch, opened.dump.guest.vmcoreinfo
    assert info is not None
    addresses = sample(opened.mappings)
    assert len(addresses) >= 100  # i386 has few mappings, and how many differs from boot to boot
    tables = info.symbol("swapper_pg_dir")
    assert tables is not None
    command = [sys.executable, "-c", JUDGES[arch], str(opened.path), hex(tables)]
    if arch == "ppc64":
        command.append(str(opened.guest.vmlinux))  # drgn looks up the MMU's features there
    available = subprocess.run([sys.executable, "-c", "import drgn, kdumpfile"], capture_output=True, timeout=60)
    require(available.returncode == 0, "drgn or pykdumpfile", "tests/integration/lab/fetch-readers .venv")
    done = subprocess.run(command, input=json.dumps(addresses), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-600:]
    theirs = dict(zip(addresses, json.loads(done.stdout), strict=True))
    if arch == "i386":
        # libkdumpfile takes what follows the linear mapping for linear memory too, which the tables do not map.
        linear = opened.mappings[0]
        assert (linear.vaddr, linear.paddr) == (0xC0000000, 0)
        theirs = {v: p for v, p in theirs.items() if p != v - linear.vaddr or p < linear.size}
    assert {vaddr: opened.space.translate(vaddr) for vaddr in theirs} == theirs


class TestQemu:
    """QEMU walks the tables a CPU uses, whichever process it is in: so do we without VMCOREINFO."""

    @pytest.fixture(params=["x86_64", "i386"])
    def by_registers(self, request: pytest.FixtureRequest, guest: Callable[[str], Guest]) -> Iterator[Opened]:
        found = guest(request.param)
        with open_dump(found.elf) as dump:
            space = space_of_cpu(dump, 0)
            yield Opened(found, dump, found.elf, space, list(space.mappings()))

    def test_info_mem(self, by_registers: Opened) -> None:
        shown = re.findall(r"^([0-9a-f]+)-([0-9a-f]+) ", by_registers.guest.text("mem.txt"), re.M)
        mask = (1 << (48 if by_registers.guest.arch == "x86_64" else 32)) - 1
        theirs = Ranges.of((int(a, 16) & mask, (int(b, 16) - 1 & mask) + 1) for a, b in shown)
        ours = Ranges.of((m.vaddr & mask, (m.vaddr & mask) + m.size) for m in by_registers.mappings)
        assert len(theirs) > 20
        assert ours == theirs

    def test_elf_with_paging(self, guest: Callable[[str], Guest]) -> None:
        found = guest("x86_64")
        with found.elf_paging.open("rb") as file:
            head = file.read(64)
            at, entries = struct.unpack_from("<Q", head, 32)[0], struct.unpack_from("<H", head, 56)[0]
            if entries == 0xFFFF:  # the count stands in the first section header
                file.seek(struct.unpack_from("<Q", head, 40)[0] + 44)
                entries = struct.unpack("<I", file.read(4))[0]
            file.seek(at)
            headers = list(struct.iter_unpack("<IIQQQQQQ", file.read(56 * entries)))
        # The sign bits of low addresses are wrong in QEMU's; it leaves out devices.
        theirs = [(vaddr, paddr, size) for kind, _, _, vaddr, paddr, _, size, _ in headers if kind == 1 and vaddr]
        assert len(theirs) > 65536
        with open_dump(found.elf) as dump:
            spaces = [space_of_cpu(dump, 0), space_of_cpu(dump, 1)]
            ram = dump.guest.memory
            ours = {(m.vaddr, m.paddr, m.size) for m in spaces[0].mappings() if m.vaddr >> 63 and ram.find(m.paddr)}
            assert {row for row in theirs if row[0] & 1 << 47} == ours
            for vaddr, paddr, size in theirs:
                if not vaddr & 1 << 47:  # a process of either CPU
                    first = vaddr & (1 << 47) - 1
                    found_at = [(space.translate(first), space.translate(first + size - 1)) for space in spaces]
                    assert (paddr, paddr + size - 1) in found_at


def test_riscv64_info_mem(guest: Callable[[str], Guest]) -> None:
    """QEMU shows what CPU 0's satp maps; the kernel's half of it is ours."""
    found = guest("riscv64")
    rows = re.findall(r"^([0-9a-f]{16}) ([0-9a-f]{16}) ([0-9a-f]{16}) ", found.text("mem.txt"), re.M)
    theirs = [(int(v, 16), int(p, 16), int(size, 16)) for v, p, size in rows]
    kernel = [(v, p, size) for v, p, size in theirs if v >> 63]
    assert len(kernel) > 20
    with open_dump(found.elf) as dump:
        space = dump.address_space()
        assert [(v, space.translate(v)) for v, _, _ in kernel] == [(v, p) for v, p, _ in kernel]
        ours = Ranges.of((m.vaddr, m.vaddr + m.size) for m in space.mappings())
        assert ours == Ranges.of((v, v + size) for v, _, size in kernel)
