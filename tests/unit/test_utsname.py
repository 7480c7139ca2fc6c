"""The kernel's names are read from init_uts_ns, where its VMCOREINFO and page tables lead there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pydump
from pydump.interfaces.arch import AddressSpace, Mapping
from pydump.kernel.memory import KernelMemory, PhysicalMemory
from pydump.kernel.utsname import read_utsname
from pydump.model.guest import ByteOrder, Guest, Utsname
from pydump.model.memory import MemoryMap
from pydump.model.vmcoreinfo import Vmcoreinfo

Qemu = Callable[[str, str], Path]
ROOT = Path(__file__).parents[2]
NAMES = ("Linux", "web1", "6.1.0-50", "#1 SMP Debian 6.1.176-1", "s390x", "(none)")


class Shifted(AddressSpace):
    """Virtual addresses a fixed distance above the physical ones."""

    def translate(self, vaddr: int) -> int | None:
        return vaddr - (1 << 30) if vaddr >= 1 << 30 else None

    def mappings(self) -> Iterator[Mapping]:
        raise NotImplementedError


def kernel(data: bytes, text: str, byte_order: ByteOrder = "little", word_size: int = 8) -> KernelMemory:
    source = pydump.BytesImage(Guest(MemoryMap(())), {0x1000: data})
    info = Vmcoreinfo(text.encode())
    return KernelMemory(
        PhysicalMemory(source), Shifted(), info, byte_order=byte_order, word_size=word_size, page_size=4096
    )


@pytest.mark.parametrize("byte_order", ["little", "big"])
@pytest.mark.parametrize("word_size", [4, 8])
@pytest.mark.parametrize(("offset", "stated"), [(0, "0"), (0, None), (4, "4"), (4, None), (16, "16")])
def test_the_names_are_read(byte_order: ByteOrder, word_size: int, offset: int, stated: str | None) -> None:
    """Linux from 5.11 on says where they lie within init_uts_ns; before, it is behind a reference count or not."""
    data = bytes(offset) + b"".join(name.encode().ljust(65, b"\0") for name in NAMES)
    text = "OSRELEASE=6.1.0-50\nSYMBOL(init_uts_ns)=40001100\n"
    text += f"OFFSET(uts_namespace.name)={stated}\n" if stated else ""
    assert read_utsname(kernel(bytes(0x100) + data, text, byte_order, word_size)) == Utsname(*NAMES)


@pytest.mark.parametrize(
    "text",
    [
        "OSRELEASE=6.1.0-51\nSYMBOL(init_uts_ns)=40001100\n",  # another kernel's
        "OSRELEASE=6.1.0-50\n",
        "SYMBOL(init_uts_ns)=40001100\n",
        "OSRELEASE=6.1.0-50\nSYMBOL(init_uts_ns)=100\n",  # not mapped
        "OSRELEASE=6.1.0-50\nSYMBOL(init_uts_ns)=50000000\n",  # no RAM there
        "OSRELEASE=6.1.0-50\nSYMBOL(init_uts_ns)=ffffffffffffffff\n",
    ],
)
def test_what_leads_nowhere_gives_no_names(text: str) -> None:
    data = bytes(0x100) + b"".join(name.encode().ljust(65, b"\0") for name in NAMES)
    assert read_utsname(kernel(data, text)) is None


@pytest.mark.parametrize("form", ["elf", "kdump"])
def test_a_real_guests_names_are_what_its_uname_prints(form: str, qemu: Qemu, tmp_path: Path) -> None:
    """console.txt has what ``uname -a`` printed in the guest."""
    console = (ROOT / "tests/data/qemu/linux-x86_64/console.txt").read_text()
    (uname,) = (line.removeprefix("LAB uname ") for line in console.splitlines() if line.startswith("LAB uname "))
    out = tmp_path / "out"
    pydump.dump(qemu("linux-x86_64", "elf"), out, format=form, workers=1, sync=False)
    for path in (qemu("linux-x86_64", "elf"), out):
        with pydump.open(path) as opened:
            uts = opened.guest.utsname
            assert f"{uts.sysname} {uts.nodename} {uts.release} {uts.version} {uts.machine} GNU/Linux" == uname
    if form == "kdump":
        head = out.read_bytes()[: 12 + 6 * 65]
        fields = [head[12 + 65 * i : 12 + 65 * (i + 1)].rstrip(b"\0").decode() for i in range(6)]
        assert f"{' '.join(fields[:5])} GNU/Linux" == uname, "struct new_utsname of the kdump header"
