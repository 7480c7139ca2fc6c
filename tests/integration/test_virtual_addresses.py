"""Virtual addresses: what lies behind them is what the guest's kernel says is there."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from judges import Tasks, drgn_tasks
from lab.boot import Guest

Pydump = Callable[..., subprocess.CompletedProcess[str]]
#: Length of a field of struct new_utsname: sysname, nodename, release.
UTS_LEN = 65
ARCHES = ("x86_64", "i386", "aarch64", "arm", "s390x", "riscv64", "ppc64")


def release(guest: Guest, pydump: Pydump) -> tuple[int, str]:
    """Where the guest's kernel keeps its release, by its own VMCOREINFO, and what it is."""
    out = guest.directory / "vmcoreinfo.txt"
    if not out.exists():
        whole = guest.directory / "with-vmcoreinfo"
        pydump("dump", guest.elf, whole, "--force")
        out.write_text(pydump("info", whole, "--vmcoreinfo").stdout)
        whole.unlink()
    entries = dict(line.split("=", 1) for line in out.read_text().splitlines())
    name = int(entries["SYMBOL(init_uts_ns)"], 16) + int(entries.get("OFFSET(uts_namespace.name)", "0"))
    return name + 2 * UTS_LEN, (guest.vmlinux.parent / "release").read_text().strip()


@pytest.mark.parametrize("arch", ARCHES)
def test_read_finds_the_release(arch: str, guest: Callable[[str], Guest], pydump: Pydump) -> None:
    g = guest(arch)
    vaddr, text = release(g, pydump)
    for dump in (g.elf, g.kdump):
        said = pydump("read", dump, "--vaddr", hex(vaddr), str(len(text))).stdout
        assert said == text


@pytest.mark.parametrize("arch", ARCHES)
def test_paging_maps_the_kernel(arch: str, guest: Callable[[str], Guest], pydump: Pydump, tmp_path: Path) -> None:
    g = guest(arch)
    out = tmp_path / "paging"
    pydump("dump", g.elf, out, "--format", "elf", "--paging")
    pydump("compare", g.elf, out)
    vaddr, text = release(g, pydump)
    with out.open("rb") as file:
        elf = ELFFile(file)
        loads = [s.header for s in elf.iter_segments("PT_LOAD")]
        holders = [h for h in loads if h.p_vaddr <= vaddr < h.p_vaddr + h.p_filesz]
        assert len(holders) == 1
        file.seek(holders[0].p_offset + vaddr - holders[0].p_vaddr)
        assert file.read(len(text)).decode() == text
    spans = sorted((h.p_vaddr, h.p_vaddr + h.p_memsz) for h in loads)
    assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False))
    # QEMU writes 65,745 segments for the x86_64 guest, 65,536 of them one page; and none but x86's at all.
    assert len(loads) < 4096
    if arch not in ("riscv64", "i386"):
        seen = drgn_tasks(out, g.vmlinux)
        assert isinstance(seen, Tasks), seen
        assert seen.tasks > 20
