"""Virtual addresses that an ELF vmcore's maker gave to memory: read where page tables are out of reach, and kept."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

import pydump
from elf_files import KINDS, Core, Load, pages, small
from pydump.errors import PydumpError

PAGE = 4096
#: Where the linear mapping begins, by class.
BASE = {32: 0xC0000000, 64: 0xFFFF888000000000}


def mapped(bits: int, order: str) -> Core:
    """RAM at 1 GiB, mapped as /proc/vmcore has it: all of it, and the kernel's image once more."""
    core = small(bits, order)
    low, text = 0x40000000, pages(16)[4 * PAGE : 8 * PAGE]
    core.loads = [
        Load(low + 4 * PAGE, text, vaddr=BASE[bits] + (1 << 28)),
        Load(low, pages(16), 20 * PAGE, vaddr=BASE[bits]),
        Load(low + (1 << 20), pages(4, 2), vaddr=BASE[bits] + (1 << 20)),
    ]
    return core


def rows(path: Path) -> set[tuple[int, ...]]:
    with path.open("rb") as file:
        headers = [segment.header for segment in ELFFile(file).iter_segments("PT_LOAD")]
        return {(h.p_vaddr, h.p_paddr, h.p_filesz, h.p_memsz) for h in headers}


@pytest.mark.parametrize(("bits", "order"), KINDS)
def test_elf_to_elf_keeps_virtual_addresses(bits: int, order: str, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.write_bytes(mapped(bits, order).build())
    pydump.dump(str(source), str(out), format="elf", sync=False)
    assert rows(out) == rows(source)
    assert pydump.compare(str(source), str(out)).same


@pytest.mark.parametrize(("bits", "order"), KINDS)
def test_what_a_window_leaves_of_virtual_addresses(bits: int, order: str, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.write_bytes(mapped(bits, order).build())
    pydump.dump(str(source), str(out), format="elf", begin=0x40000000 + 6 * PAGE, length=4 * PAGE, sync=False)
    assert rows(out) == {
        (BASE[bits] + (1 << 28) + 2 * PAGE, 0x40000000 + 6 * PAGE, 2 * PAGE, 2 * PAGE),
        (BASE[bits] + 6 * PAGE, 0x40000000 + 6 * PAGE, 4 * PAGE, 4 * PAGE),
    }


@pytest.mark.parametrize(("bits", "order"), KINDS)
def test_reading_by_them_without_page_tables(bits: int, order: str, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(mapped(bits, order).build())
    with pydump.open(str(tmp_path / "in")) as dump:
        assert dump.read_virtual(BASE[bits] + PAGE - 8, 16) == pages(16)[PAGE - 8 : PAGE + 8]
        assert dump.read_virtual(BASE[bits] + (1 << 28) + 8, 8) == pages(16)[4 * PAGE + 8 : 4 * PAGE + 16]
        with pytest.raises(PydumpError, match="excluded|left out"):
            dump.read_virtual(BASE[bits] + 16 * PAGE, 8)
        with pytest.raises(PydumpError, match="nothing is mapped"):
            dump.read_virtual(BASE[bits] - 8, 8)


@pytest.mark.parametrize("vaddr", ["zero", "paddr"])
def test_an_address_that_is_only_the_physical_one_is_not_a_mapping(vaddr: str, tmp_path: Path) -> None:
    core = small()
    for load in core.loads:
        load.vaddr = load.paddr if vaddr == "paddr" else 0
    (tmp_path / "in").write_bytes(core.build())
    with pydump.open(str(tmp_path / "in")) as dump, pytest.raises(PydumpError, match="too little is known"):
        dump.read_virtual(1 << 24, 8)


def test_page_tables_that_are_lost(tmp_path: Path) -> None:
    """A 32-bit ARM guest whose page tables lie in what the file no longer holds."""
    text = b"OSRELEASE=5.10.0\nPAGESIZE=4096\nSYMBOL(swapper_pg_dir)=c0010000\nSYMBOL(_stext)=c0008000\n"
    core = Core([Load(0x40000000, pages(64), vaddr=BASE[32])], 32, machine=40)
    core.notes = [core.note(b"CORE", 1, bytes(148)) + core.note(b"VMCOREINFO", 0, text)]
    (tmp_path / "in").write_bytes(core.build()[: core.data_at + 16 * PAGE])
    with pydump.open(str(tmp_path / "in")) as dump:
        assert dump.read_virtual(BASE[32] + PAGE, 16) == struct.pack("<QQ", 1, 1)


def test_left_out_memory_is_kept_with_its_virtual_address(tmp_path: Path) -> None:
    """What a mapping covers and the source left out is memory without bytes in the output too."""
    core = small()
    core.loads = [Load(0, pages(2), 4 * PAGE, vaddr=BASE[64]), Load(4 * PAGE, b"", 4 * PAGE, vaddr=BASE[64] + 4 * PAGE)]
    (tmp_path / "in").write_bytes(core.build())
    pydump.dump(str(tmp_path / "in"), str(tmp_path / "out"), format="elf", sync=False)
    with pydump.open(str(tmp_path / "in")) as before, pydump.open(str(tmp_path / "out")) as after:
        assert after.image.excluded() == before.image.excluded()
        assert after.image.excluded().size == 6 * PAGE


def test_vmcoreinfo_from_memory_on_request(tmp_path: Path) -> None:
    real = b"OSRELEASE=6.1.0-real\nPAGESIZE=4096\n"
    core = small()
    core.loads = [Load(0, real.ljust(PAGE, b"\0") + pages(3))]
    source, out = tmp_path / "in", tmp_path / "out"
    source.write_bytes(core.build())
    pydump.dump(str(source), str(out), format="elf", vmcoreinfo="memory", sync=False)
    with pydump.open(str(out)) as dump:
        assert dump.vmcoreinfo is not None
        assert dump.vmcoreinfo.text == real
    core.loads = [Load(0, pages(4))]
    source.write_bytes(core.build())
    with pytest.raises(PydumpError, match="guest memory holds no VMCOREINFO"):
        pydump.dump(str(source), str(tmp_path / "other"), format="elf", vmcoreinfo="memory", sync=False)
