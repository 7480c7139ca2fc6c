"""Virtual addresses, against what each guest's own kernel says of itself."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from judges import Tasks, drgn_tasks
from lab.boot import Guest

Pydump = Callable[..., subprocess.CompletedProcess[str]]
ARCHES = ("x86_64", "i386", "aarch64", "s390x", "riscv64", "ppc64")


def banner(guest: Guest) -> tuple[int, str]:
    """Where the guest's kernel says that linux_banner is, and how it begins."""
    match = re.search(r"LAB sym ([0-9a-f]+) \S linux_banner", guest.console)
    assert match
    return int(match[1], 16), f"Linux version {(guest.vmlinux.parent / 'release').read_text().strip()} "


@pytest.mark.parametrize("arch", ARCHES)
def test_read_finds_the_banner(arch: str, guest: Callable[[str], Guest], pydump: Pydump) -> None:
    g = guest(arch)
    vaddr, text = banner(g)
    for dump in (g.elf, g.kdump):
        said = pydump("read", dump, "--vaddr", hex(vaddr), str(len(text))).stdout
        assert said == text


@pytest.mark.parametrize("arch", ARCHES)
def test_paging_maps_the_kernel(arch: str, guest: Callable[[str], Guest], pydump: Pydump, tmp_path: Path) -> None:
    g = guest(arch)
    out = tmp_path / "paging"
    pydump("dump", g.elf, out, "--format", "elf", "--paging")
    pydump("compare", g.elf, out)
    vaddr, text = banner(g)
    with out.open("rb") as file:
        elf = ELFFile(file)
        loads = [s.header for s in elf.iter_segments("PT_LOAD")]
        holders = [h for h in loads if h.p_vaddr <= vaddr < h.p_vaddr + h.p_filesz]
        assert len(holders) == 1
        file.seek(holders[0].p_offset + vaddr - holders[0].p_vaddr)
        assert file.read(len(text)).decode() == text
    spans = sorted((h.p_vaddr, h.p_vaddr + h.p_memsz) for h in loads if h.p_vaddr != h.p_paddr)
    assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False))
    # QEMU writes 65,745 segments for the x86_64 guest, 65,536 of them one page; and none but x86's at all.
    assert len(loads) < 4096
    if arch not in ("riscv64", "i386"):
        seen = drgn_tasks(out, g.vmlinux)
        assert isinstance(seen, Tasks), seen
        assert seen.tasks > 20
