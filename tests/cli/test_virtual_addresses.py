"""Virtual addresses of guests whose page tables are made by hand, from memory to --paging and --vaddr."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

from elftools.elf.elffile import ELFFile

Refuse = Callable[..., str]
Run = Callable[..., object]

MIB = 1 << 20


class Ram:
    """RAM from paddr 0 on, with what is put there."""

    def __init__(self, size: int, order: str = "<") -> None:
        self.data = bytearray(size)
        self.order = order

    def entries(self, paddr: int, *values: int) -> None:
        struct.pack_into(f"{self.order}{len(values)}Q", self.data, paddr, *values)

    def text(self, paddr: int, *lines: str) -> None:
        content = "".join(f"{line}\n" for line in lines).encode()
        self.data[paddr : paddr + len(content)] = content

    def note(self, paddr: int, *lines: str) -> None:
        content = "".join(f"{line}\n" for line in lines).encode()
        head = struct.pack(f"{self.order}III", 11, len(content), 0) + b"VMCOREINFO\0\0"
        self.data[paddr : paddr + len(head) + len(content)] = head + content


def loads(path: Path) -> list[tuple[int, int, int]]:
    """p_vaddr, p_paddr and p_memsz of each PT_LOAD, as pyelftools reads them."""
    with path.open("rb") as file:
        headers = [segment.header for segment in ELFFile(file).iter_segments("PT_LOAD")]
    return [(h.p_vaddr, h.p_paddr, h.p_memsz) for h in headers]


def x86_64_cpus(run: Run, elf: Path, **values: int) -> str:
    """The registers of a real dump's CPU with some replaced."""
    cpu = json.loads(run("info", elf, "--json", "--notes").out)["cpus"][0]
    return json.dumps([{**cpu, **values}])


# Intel's manual: bit 0 present, 1 writable, 7 a large page.
def x86_64_ram(pages: Sequence[tuple[int, int]], size: int = MIB) -> Ram:
    """4 levels at 0x1000 to 0x4000, which map the vaddrs below 2 MiB: ``(page of vaddr, paddr)``."""
    ram = Ram(size)
    ram.entries(0x1000, 0x2003)
    ram.entries(0x2000, 0x3003)
    ram.entries(0x3000, 0x4003)
    for page, paddr in pages:
        ram.entries(0x4000 + 8 * page, paddr | 3)
    return ram


PAGING_ON = {"cr0": 1 << 31, "cr3": 0x1000, "cr4": 1 << 5}


def test_ram_that_is_not_mapped_lies_where_no_mapping_is(qemu: Callable[..., Path], run: Run, tmp_path: Path) -> None:
    ram = x86_64_ram([(0x80, 0x20000), (0x81, 0x21000)])
    ram.data[0x20000:0x20006] = b"mapped"
    (tmp_path / "ram").write_bytes(ram.data)
    (tmp_path / "cpus").write_text(x86_64_cpus(run, qemu("mini-x86_64-smp2", "elf"), **PAGING_ON))
    made = run("dump", "raw:ram@0", "out", "--arch", "x86_64", "--cpus", "cpus", "--format", "elf", "--paging")
    assert made.code == 0, made.err
    found = loads(tmp_path / "out")
    assert (0x80000, 0x20000, 0x2000) in found
    spans = sorted((vaddr, vaddr + size) for vaddr, _, size in found)
    assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False))
    # All of RAM is there, by its physical address.
    assert sorted((paddr, size) for _, paddr, size in found) == [(0, 0x20000), (0x20000, 0x2000), (0x22000, 0xDE000)]
    assert run("read", "out", "0x80000", "6", "--vaddr").out == "mapped"
    assert run("compare", "raw:ram@0", "out", "--arch", "x86_64").out.count("paddr") == 0


def test_a_root_outside_ram_is_no_root(qemu: Callable[..., Path], run: Run, refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "ram").write_bytes(x86_64_ram([(0x80, 0x20000)]).data)
    (tmp_path / "cpus").write_text(x86_64_cpus(run, qemu("mini-x86_64-smp2", "elf"), **{**PAGING_ON, "cr3": 1 << 51}))
    command = ("dump", "raw:ram@0", "out", "--arch", "x86_64", "--cpus", "cpus", "--format", "elf", "--paging")
    assert "too little is known" in refuse(2, *command)
    (tmp_path / "cpus").write_text(x86_64_cpus(run, qemu("mini-x86_64-smp2", "elf"), **{**PAGING_ON, "cr3": 0x50000}))
    assert refuse(2, *command).startswith("--paging: the guest's page tables map nothing")


def test_page_tables_that_were_left_out_are_told(
    qemu: Callable[..., Path], run: Run, refuse: Refuse, tmp_path: Path
) -> None:
    """An ELF file whose first PT_LOAD holds less than it spans: the last table is not there."""
    (tmp_path / "ram").write_bytes(x86_64_ram([(0x80, 0x20000)]).data)
    (tmp_path / "cpus").write_text(x86_64_cpus(run, qemu("mini-x86_64-smp2", "elf"), **PAGING_ON))
    assert run("dump", "raw:ram@0", "whole", "--arch", "x86_64", "--cpus", "cpus", "--format", "elf").code == 0
    data = bytearray((tmp_path / "whole").read_bytes())
    first_load = 64 + 56
    assert struct.unpack_from("<I", data, first_load)[0] == 1
    struct.pack_into("<Q", data, first_load + 32, 0x4000)  # p_filesz
    (tmp_path / "part").write_bytes(data)
    said = run("read", "part", "0x80000", "6", "--vaddr").err
    assert "the page table at paddr 0x4" in said and "was excluded" in said
    assert "was excluded from the source" in refuse(2, "dump", "part", "out", "--format", "elf", "--paging")


AARCH64 = 0xFFFF800000000000


def aarch64_ram() -> Ram:
    """4 KiB pages, 4 levels; 16 pages of vaddr at AARCH64 map 16 pages in descending order. Source: Arm ARM D8.3."""
    ram = Ram(2 * MIB)
    ram.entries(0x1000 + 0x800, 0x2003)
    ram.entries(0x2000, 0x3003)
    ram.entries(0x3000, 0x4003)
    ram.entries(0x4000, *((0x20000 - 0x1000 * i) | 0x403 for i in range(16)))
    for i in range(64):
        ram.data[0x10000 + 0x1000 * i : 0x10004 + 0x1000 * i] = b"P%03d" % i
    ram.text(
        0x80000,
        "OSRELEASE=6.1.0",
        "PAGESIZE=4096",
        f"SYMBOL(swapper_pg_dir)={AARCH64 + 0x1000:x}",
        f"SYMBOL(_stext)={AARCH64 + 0x10000:x}",
        "NUMBER(VA_BITS)=48",
        f"NUMBER(kimage_voffset)={AARCH64:#x}",
        "NUMBER(PHYS_OFFSET)=0x0",
    )
    ram.entries(0x4000 + 8 * 16, 0x10403)  # _stext
    return ram


def test_pages_are_as_large_as_the_vmcoreinfo_in_memory_says(
    qemu: Callable[..., Path], run: Run, tmp_path: Path
) -> None:
    """QEMU's kdump of an aarch64 guest has blocks of 64 KiB; its kernel's pages have 4."""
    (tmp_path / "ram").write_bytes(aarch64_ram().data)
    (tmp_path / "cpus").write_text(run("info", qemu("bare-aarch64", "elf"), "--json", "--notes").out)
    how = ("--arch", "aarch64", "--cpus", "cpus", "--compat", "qemu", "--no-vmcoreinfo")
    made = run("dump", "raw:ram@0", "out", *how)
    assert made.code == 0, made.err
    assert json.loads(run("info", "out", "--json").out)["page_size"] == 65536
    read = run("read", "out", hex(AARCH64), "16K", "--vaddr").raw
    assert [read[at : at + 4] for at in range(0, 16384, 4096)] == [b"P016", b"P015", b"P014", b"P013"]


def test_of_two_kernels_the_one_that_runs_is_taken(run: Run, tmp_path: Path) -> None:
    """After a reboot the older kernel's note still lies in memory, and it may be the longer one."""
    ram = aarch64_ram()
    facts = bytes(ram.data[0x80000:0x81000]).rstrip(b"\0").decode().splitlines()
    ram.data[0x80000:0x81000] = bytes(0x1000)
    at = AARCH64 + 0x10000 + 0x100
    ram.note(0x90000, *facts, f"SYMBOL(init_uts_ns)={at:x}", "OFFSET(uts_namespace.name)=0")
    ram.note(0x1A0000, "OSRELEASE=5.0-old", *facts[1:], f"SYMBOL(init_uts_ns)={at:x}", *(f"X{i}=1" for i in range(9)))
    ram.data[0x10100 + 130 : 0x10100 + 136] = b"6.1.0\0"
    (tmp_path / "ram").write_bytes(ram.data)
    assert run("dump", "raw:ram@0", "out", "--arch", "aarch64").code == 0
    assert "OSRELEASE=6.1.0\n" in run("info", "out", "--vmcoreinfo").out
    ram.data[0x10100 + 130] = 0  # neither runs: the one that says most
    (tmp_path / "ram").write_bytes(ram.data)
    assert run("dump", "raw:ram@0", "two", "--arch", "aarch64").code == 0
    assert "OSRELEASE=5.0-old\n" in run("info", "two", "--vmcoreinfo").out


def test_facts_of_a_vmcoreinfo_that_is_not_written(run: Run, tmp_path: Path) -> None:
    """riscv64's readers need p_vaddr, with or without the note."""
    page_offset, ram_base = 0xFFFFFFD600000000, 0x80000000
    lines = ["OSRELEASE=6.1", "PAGESIZE=4096", f"NUMBER(PAGE_OFFSET)={page_offset:#x}", "NUMBER(VA_BITS)=39"]
    (tmp_path / "text").write_text("\n".join([*lines, f"NUMBER(phys_ram_base)={ram_base:#x}"]) + "\n")
    (tmp_path / "ram").write_bytes(bytes(MIB))
    made = run("dump", "raw:ram@2G", "with", "--arch", "riscv64", "--format", "elf", "--vmcoreinfo", "text")
    assert made.code == 0, made.err
    assert run("dump", "with", "without", "--format", "elf", "--no-vmcoreinfo").code == 0
    assert loads(tmp_path / "without") == loads(tmp_path / "with") == [(page_offset, ram_base, MIB)]
    assert b"VMCOREINFO" not in (tmp_path / "without").read_bytes()


def test_qemus_bytes_have_no_virtual_addresses(qemu: Callable[..., Path], refuse: Refuse) -> None:
    elf = qemu("mini-x86_64-smp2", "elf")
    assert "leave one of the two out" in refuse(2, "dump", elf, "o", "--format", "elf", "--paging", "--compat", "qemu")
