"""``--vmlinux`` and ``--symbol``: addresses of kernel symbols."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from elf_files import EHDR, KINDS, Core, Load, pages, small

Run = Callable[..., Any]
Refuse = Callable[..., str]
SHDR = {32: "IIIIIIIIII", 64: "IIQQQQIIQQ"}
#: Where the made kernel is linked to, by class; in the dump it is moved up by 1 MiB.
LINKED = {32: 0xC0000000, 64: 0xFFFFFFFF81000000}
SHIFT = 1 << 20
BUILD_ID = bytes(range(20))


def vmlinux(
    bits: int = 64, order: str = "<", symbols: dict[str, int] | None = None, build_id: bytes = BUILD_ID
) -> bytes:
    """A kernel with nothing but a build id and symbols. Source: System V ABI, chapter 4."""
    base = LINKED[bits]
    symbols = {"_stext": base, "init_uts_ns": base + 0x2000, **(symbols or {"my_page": base + 0x3000, "page": base})}
    names, rows = b"\0", [bytes(16 if bits == 32 else 24)]
    for name, value in symbols.items():
        at = len(names)
        names += name.encode() + b"\0"
        rows.append(
            struct.pack(order + "IIIBBH", at, value, 0, 0x10, 0, 1)
            if bits == 32
            else struct.pack(order + "IBBHQQ", at, 0x10, 0, 1, value, 0)
        )
    note = struct.pack(order + "III", 4, len(build_id), 3) + b"GNU\0" + build_id
    sections = b"\0.note.gnu.build-id\0.symtab\0.strtab\0.shstrtab\0"
    at = 16 + struct.calcsize("<" + EHDR[bits])
    table, body = [(0, 0, b"", 0)], b""
    for name, type_, data, link in (
        (b".note.gnu.build-id", 7, note, 0), (b".symtab", 2, b"".join(rows), 3),
        (b".strtab", 3, names, 0), (b".shstrtab", 3, sections, 0),
    ):  # fmt: skip
        table.append((sections.index(b"\0" + name + b"\0") + 1, type_, data, link))
    headers = b""
    for name_at, type_, data, link in table:
        size = len(rows[0]) if type_ == 2 else 0
        headers += struct.pack(order + SHDR[bits], name_at, type_, 0, 0, at + len(body), len(data), link, 0, 4, size)
        body += data + bytes(-len(data) % 8)
    ident = b"\x7fELF" + bytes([bits // 32, 1 if order == "<" else 2, 1]) + bytes(9)
    shsize = struct.calcsize("<" + SHDR[bits])
    head = struct.pack(order + EHDR[bits], 2, 62, 1, 0, 0, at + len(body), 0, at, 0, 0, shsize, len(table), 4)
    return ident + head + body + headers


def dump(bits: int = 64, order: str = "<", build_id: bytes = BUILD_ID) -> Core:
    """A dump of that kernel, with virtual addresses in its PT_LOAD and no page tables."""
    base = LINKED[bits] + SHIFT
    text = f"OSRELEASE=6.1.0-test\nBUILD-ID={build_id.hex()}\nPAGESIZE=4096\nSYMBOL(_stext)={base:x}\n".encode()
    core = small(bits, order)
    core.loads = [Load(0x100000, pages(16), vaddr=base)]
    core.notes = [core.note(b"VMCOREINFO", 0, text)]
    return core


@pytest.mark.parametrize(("bits", "order"), KINDS)
def test_read_by_symbol(bits: int, order: str, tmp_path: Path, run: Run) -> None:
    (tmp_path / "vmlinux").write_bytes(vmlinux(bits, order))
    (tmp_path / "core").write_bytes(dump(bits, order).build())
    for name, at in (("my_page", 0x3000), ("my_page+0x10", 0x3010), ("_stext+4K", 0x1000), ("page", 0)):
        done = run("read", "core", "--symbol", name, "32", "--vmlinux", "vmlinux")
        assert done.code == 0, done.err
        assert done.raw == pages(16)[at : at + 32]


def test_symbols_that_vmcoreinfo_has_need_no_vmlinux(tmp_path: Path, run: Run, refuse: Refuse) -> None:
    (tmp_path / "core").write_bytes(dump().build())
    assert run("read", "core", "_stext", "16", "--symbol").raw == pages(1)[:16]
    assert "name the kernel's file with --vmlinux" in refuse(2, "read", "core", "my_page", "16", "--symbol")


def test_info_says_that_the_build_id_matches(tmp_path: Path, run: Run) -> None:
    (tmp_path / "core").write_bytes(dump().build())
    (tmp_path / "vmlinux").write_bytes(vmlinux())
    said = run("info", "core", "--vmlinux", "vmlinux").out
    assert "vmlinux       of this kernel: the build id says so; moved by 0x100000" in said


def test_a_vmlinux_of_another_build_is_refused(tmp_path: Path, refuse: Refuse) -> None:
    (tmp_path / "core").write_bytes(dump().build())
    (tmp_path / "other").write_bytes(vmlinux(build_id=bytes(20)))
    for command in (("info", "core"), ("read", "core", "page", "8", "--symbol")):
        said = refuse(2, *command, "--vmlinux", "other")
        assert "other is not the dump's kernel: its build id is 0000" in said
        assert "name the vmlinux of 6.1.0-test" in said


def test_what_is_not_a_vmlinux(tmp_path: Path, refuse: Refuse) -> None:
    (tmp_path / "core").write_bytes(dump().build())
    (tmp_path / "text").write_text("not a kernel")
    whole = vmlinux()
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    assert "it has no symbols" in refuse(1, "info", "core", "--vmlinux", "core")
    assert "text" in refuse(1, "info", "core", "--vmlinux", "text")
    assert "cut" in refuse(1, "info", "core", "--vmlinux", "cut")
    assert "there is no symbol 'nosuch'" in refuse(2, "read", "core", "nosuch", "8", "--symbol")
    assert "exclude each other" in refuse(2, "read", "core", "page", "8", "--symbol", "--vaddr")


def test_info_names_the_machine_that_no_architecture_knows(tmp_path: Path, run: Run) -> None:
    core = small()
    for core.machine, name in ((15, "EM_PARISC"), (258, "EM_LOONGARCH, LoongArch")):
        (tmp_path / "core").write_bytes(core.build())
        assert f"machine       {core.machine} ({name})\n" in run("info", "core").out


def test_names_of_note_types(tmp_path: Path, run: Run) -> None:
    (tmp_path / "core").write_bytes(small().build())
    assert "CORE       type 0x00001  336 bytes  NT_PRSTATUS" in run("info", "core", "--notes").out
    assert "22 (EM_S390, IBM S/390)" in run("--arch", "s390x").out
