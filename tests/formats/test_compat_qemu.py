"""``--compat qemu`` gives QEMU's bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import pydump
from pydump.builtin.files import FileBacking
from pydump.builtin.flattened import FlattenedBacking
from pydump.errors import UnsupportedError

pytestmark = pytest.mark.slow

Qemu = Callable[[str, str], Path]
GUESTS = (
    "bare-aarch64",
    "bare-arm",
    "bare-i386",
    "bare-ppc64",
    "bare-riscv64",
    "bare-s390x",
    "bare-x86_64",
    "mini-x86_64-smp2",
    "nano-x86_64",
)
#: utsname.machine in the header of a kdump: after signature, version and four fields of 65 bytes.
MACHINE_AT = slice(12 + 4 * 65, 12 + 5 * 65)


def unflattened(path: Path) -> bytes:
    backing = FlattenedBacking(FileBacking.open(str(path)))
    data = backing.read(0, backing.size)
    backing.close()
    return data


@pytest.mark.parametrize("name", ["elf", "elf-filter-odd"])
@pytest.mark.parametrize("guest", GUESTS)
def test_elf_byte_for_byte(guest: str, name: str, qemu: Qemu, tmp_path: Path) -> None:
    pydump.dump(str(qemu(guest, name)), str(tmp_path / "out"), format="elf", compat="qemu")
    assert (tmp_path / "out").read_bytes() == qemu(guest, name).read_bytes()


def test_elf_of_a_booted_guest(qemu: Qemu, tmp_path: Path) -> None:
    elf = qemu("linux-x86_64", "elf")
    pydump.dump(str(elf), str(tmp_path / "out"), format="elf", compat="qemu")
    assert (tmp_path / "out").read_bytes() == elf.read_bytes()


@pytest.mark.parametrize("guest", GUESTS)
def test_kdump_byte_for_byte_once_unflattened(guest: str, qemu: Qemu, tmp_path: Path) -> None:
    """With pages compressed by zlib itself, as QEMU's are; the order of the records in the stream is each writer's."""
    out = tmp_path / "out"
    options = {"zlib": {"library": "zlib"}}
    pydump.dump(str(qemu(guest, "elf")), str(out), compression="zlib", compat="qemu", flatten=True, options=options)
    ours, theirs = unflattened(out), unflattened(qemu(guest, "kdump-zlib"))
    if guest == "bare-x86_64":
        # QEMU names its target here. Its ELF says EM_386, for the CPU is not in long mode: nothing in it tells.
        assert theirs[MACHINE_AT].rstrip(b"\0") == b"x86_64"
        assert ours[MACHINE_AT].rstrip(b"\0") == b"i686"
        ours = ours[: MACHINE_AT.start] + theirs[MACHINE_AT] + ours[MACHINE_AT.stop :]
    assert ours == theirs


@pytest.mark.parametrize("compression", ["zlib", "lzo", "snappy", "zstd"])
def test_a_compression_that_qemu_does_not_write_is_refused(compression: str, qemu: Qemu, tmp_path: Path) -> None:
    """DumpGuestMemoryFormat of QEMU has the first three."""
    source, out = qemu("bare-x86_64", "elf"), tmp_path / "out"
    if compression != "zstd":
        assert pydump.dump(source, out, compression=compression, compat="qemu", sync=False).compression == compression
        return
    with pytest.raises(UnsupportedError, match="QEMU cannot write kdump files with zstd") as refused:
        pydump.dump(source, out, compression=compression, compat="qemu", sync=False)
    assert refused.value.hint == "it can with zlib, lzo, snappy; or leave --compat out"
    assert not out.exists()


@pytest.mark.parametrize("guest", GUESTS)
def test_from_qemus_kdump_to_qemus_kdump(guest: str, qemu: Qemu, tmp_path: Path) -> None:
    """Pages are taken over as they are, so the library that compresses does not matter."""
    out = tmp_path / "out"
    pydump.dump(str(qemu(guest, "kdump-zlib")), str(out), compression="zlib", compat="qemu", flatten=True)
    ours, theirs = unflattened(out), unflattened(qemu(guest, "kdump-zlib"))
    if guest == "bare-x86_64":
        ours = ours[: MACHINE_AT.start] + theirs[MACHINE_AT] + ours[MACHINE_AT.stop :]
    assert ours == theirs
