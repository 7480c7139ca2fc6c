"""Compressed files and pipes are read as what they hold, whatever their size, and cost no more than they say."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

import pydump
from pydump.builtin.files import FileBacking
from pydump.engine.open import packings
from pydump.errors import FormatError, SourceError
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap
from pydump.registry import installed
from pydump.testing import guests
from pydump.testing.peak import peak_of

pytestmark = pytest.mark.slow

Pack = Callable[[bytes], bytes]

# Quick levels: what is read back does not depend on it.
PACK: dict[str, Pack] = {
    "gzip": lambda data: gzip.compress(data, 6),
    "bzip2": lambda data: bz2.compress(data, 1),
    "xz": lambda data: lzma.compress(data, preset=0),
    "zstd": lambda data: zstandard.ZstdCompressor(write_checksum=True).compress(data),
    "zstd without its size": lambda data: zstandard.ZstdCompressor(write_content_size=False).compress(data),
    "xz in gzip": lambda data: gzip.compress(lzma.compress(data, preset=0), 6),
}
every = pytest.mark.parametrize("pack", PACK.values(), ids=PACK)

RAM = b"".join(guests.text_page(i) + bytes(4096) + guests.random_page(i) for i in range(100))


@pytest.fixture(scope="module")
def vmcore(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ELF of RAM at 1 MiB. Do not write to it."""
    path = tmp_path_factory.mktemp("vmcore") / "elf"
    guest = Guest(MemoryMap(()), arch="x86_64", byte_order="little")
    pydump.dump(pydump.BytesImage(guest, {1 << 20: RAM}), path, format="elf", workers=1, sync=False)
    return path


@every
@pytest.mark.parametrize("options", [{"format": "elf"}, {"flatten": True}, {"compression": "zlib"}], ids=str)
def test_a_compressed_vmcore_is_read(pack: Pack, options: dict[str, object], vmcore: Path, tmp_path: Path) -> None:
    pydump.dump(vmcore, tmp_path / "plain", workers=1, sync=False, **options)  # type: ignore[arg-type]
    (tmp_path / "in").write_bytes(pack((tmp_path / "plain").read_bytes()))
    with pydump.open(tmp_path / "in") as opened:
        assert opened.read(1 << 20, len(RAM)) == RAM
    assert pydump.verify(tmp_path / "in", workers=1).ok


@every
def test_a_compressed_vmcore_comes_through_a_pipe(pack: Pack, vmcore: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writing = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(pack(vmcore.read_bytes())))
    writing.start()
    with pydump.open(tmp_path / "pipe") as opened:
        assert opened.read(1 << 20, len(RAM)) == RAM
    writing.join()


@pytest.mark.parametrize("head", [b"MDMP", b"nothing that anybody knows"])
def test_a_slow_pipe_is_refused_after_its_first_page(head: bytes, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    done = threading.Event()

    def send() -> None:
        with (tmp_path / "pipe").open("wb", buffering=0) as pipe:
            pipe.write(head.ljust(4096, b"\0"))
            done.wait(20)

    sending = threading.Thread(target=send)
    sending.start()
    with pytest.raises(FormatError):
        pydump.open(tmp_path / "pipe")
    assert not done.is_set()
    assert sending.is_alive(), "it would have sent more"
    done.set()
    sending.join()


@pytest.mark.parametrize("program", ["gzip", "bzip2", "xz", "zstd"])
def test_what_the_programs_write_is_read(program: str, vmcore: Path, tmp_path: Path) -> None:
    """Several streams one after the other, as ``cat a.gz b.gz``."""
    half = len(vmcore.read_bytes()) // 2
    packed = b""
    for part in (vmcore.read_bytes()[:half], vmcore.read_bytes()[half:]):
        try:
            packed += subprocess.run([program, "-1", "-c"], input=part, capture_output=True, check=True).stdout
        except FileNotFoundError:
            pytest.skip(f"apt install {program}")
    for tail in (b"", bytes(512)):
        (tmp_path / "in").write_bytes(packed + tail)
        with pydump.open(tmp_path / "in") as opened:
            assert opened.read(1 << 20, len(RAM)) == RAM


@pytest.mark.parametrize("damage", ["half", "without its end", "a hole", "garbage behind it"])
@pytest.mark.parametrize("name", ["gzip", "xz", "zstd"])
def test_of_a_damaged_or_cut_file_what_is_before_is_kept(name: str, damage: str, tmp_path: Path) -> None:
    packed = PACK[name](RAM)
    middle = len(packed) // 2
    damaged, why = {
        "half": (packed[:middle], "cut off after"),
        "without its end": (packed[:-2], "cut off after"),
        "a hole": (packed[:middle] + b"\xaa" * 64 + packed[middle + 64 :], "after"),
        "garbage behind it": (packed + b"garbage", f"after {len(RAM)} bytes"),
    }[damage]
    (tmp_path / "in").write_bytes(damaged)
    backing = FileBacking.open(str(tmp_path / "in"), packings=packings(installed()))
    (warning,) = backing.warnings
    assert f"the {name} stream is " in warning
    assert why in warning
    assert backing.size > 100_000 or damage == "a hole"
    assert backing.size == len(RAM) or damage != "garbage behind it"
    assert backing.read(0, min(4096, backing.size)) == RAM[: min(4096, backing.size)]
    backing.close()


@pytest.mark.parametrize("flatten", [False, True])
def test_a_cut_compressed_kdump_is_read_as_far_as_it_goes(flatten: bool, vmcore: Path, tmp_path: Path) -> None:
    pydump.dump(vmcore, tmp_path / "kdump", compression="none", flatten=flatten, workers=1, sync=False)
    packed = gzip.compress((tmp_path / "kdump").read_bytes(), 1)
    (tmp_path / "in").write_bytes(packed[: len(packed) // 2])
    with pydump.open(tmp_path / "in") as opened:
        assert opened.read(1 << 20, 4096) == RAM[:4096]
        assert "the gzip stream is cut off after" in " ".join(opened.image.warnings())
        lost = opened.image.unreadable().size
        assert 0 < lost < len(RAM)
    report = pydump.dump(tmp_path / "in", tmp_path / "out", workers=1, sync=False)
    assert report.unreadable_size == lost


def test_a_file_that_only_begins_like_one_is_an_error(tmp_path: Path) -> None:
    for head in (b"\x1f\x8b\x08", b"BZh9", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"):
        (tmp_path / "in").write_bytes(head + b"x" * 5000)
        with pytest.raises((SourceError, FormatError), match="in"):
            pydump.open(tmp_path / "in")


def test_a_compressed_file_of_something_else_is_named_before_all_of_it_is_unpacked(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(gzip.compress(b"MDMP" + bytes(1 << 20)))
    with pytest.raises(FormatError, match="a Windows minidump"):
        pydump.open(tmp_path / "in")


@pytest.mark.parametrize("name", ["gzip", "xz", "zstd"])
def test_a_bomb_takes_no_memory_and_no_room(name: str, tmp_path: Path) -> None:
    """256 MiB of zeros: 256 KiB of gzip, less of the others."""
    size = 256 << 20
    (tmp_path / "in").write_bytes(PACK[name](bytes(size)))
    assert (tmp_path / "in").stat().st_size < 1 << 20

    def read() -> None:
        backing = FileBacking.open(str(tmp_path / "in"), packings=packings(installed()))
        assert backing.size == size
        assert os.fstat(backing.fd).st_blocks == 0
        backing.close()

    assert peak_of(read) < 220 << 20


def test_an_xz_stream_that_asks_for_gigabytes_is_refused(tmp_path: Path) -> None:
    packed = bytearray(lzma.compress(b"x" * 9000))
    # The block header's filter flags: LZMA2's dictionary size. Source: the .xz file format, 3.1 and 5.3.1.
    assert packed[12:17] == b"\x02\0\x21\x01\x16"
    packed[16] = 36  # 1 GiB
    packed[20:24] = zlib.crc32(packed[12:20]).to_bytes(4, "little")
    (tmp_path / "in").write_bytes(packed)
    with pytest.raises(SourceError, match=r"cannot be unpacked.*[Mm]emory"):
        pydump.open(tmp_path / "in")


def test_unpacking_stops_before_the_disk_is_full(vmcore: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").write_bytes(gzip.compress(vmcore.read_bytes()))
    real = os.fstatvfs

    class Nearly:
        def __init__(self, fd: int) -> None:
            self.f_frsize, self.f_blocks, self.f_bavail = real(fd).f_frsize, real(fd).f_blocks, 10

    monkeypatch.setattr(os, "fstatvfs", Nearly)
    with pytest.raises(SourceError, match=r"too little room left on the disk; set TMPDIR"):
        pydump.open(tmp_path / "in")


def test_no_directory_to_unpack_in(vmcore: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").write_bytes(gzip.compress(vmcore.read_bytes()))
    monkeypatch.setenv("TMPDIR", "/nowhere")
    with pytest.raises(SourceError, match="cannot keep .* in /nowhere"):
        pydump.open(tmp_path / "in")


# --- flattened streams and compressed files in each other ---


def flat(data: bytes) -> bytes:
    """A flattened stream of a file, in records that come in any order. Source: makedumpfile.h."""
    pieces = [(at, data[at : at + 50000]) for at in range(0, len(data), 50000)]
    records = [struct.pack(">qq", at, len(piece)) + piece for at, piece in pieces]
    header = struct.pack(">16sqq", b"makedumpfile", 1, 1).ljust(4096, b"\0")
    return header + b"".join(records[::-1]) + struct.pack(">qq", -1, -1)


WRAP: dict[str, Pack] = {**{name: PACK[name] for name in ("gzip", "bzip2", "xz", "zstd")}, "flat": flat}


@pytest.mark.parametrize("outer", WRAP)
@pytest.mark.parametrize("inner", WRAP)
def test_what_is_wrapped_in_each_other_is_read(outer: str, inner: str, vmcore: Path, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(WRAP[outer](WRAP[inner](vmcore.read_bytes())))
    with pydump.open(tmp_path / "in") as opened:
        assert opened.image.warnings() == ()
        assert opened.read(1 << 20, len(RAM)) == RAM


def test_three_kinds_in_each_other_are_read(vmcore: Path, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(PACK["gzip"](flat(PACK["xz"](flat(vmcore.read_bytes())))))
    with pydump.open(tmp_path / "in") as opened:
        assert opened.read(1 << 20, len(RAM)) == RAM
    command = [sys.executable, "-m", "pydump", "read", "-", str(1 << 20), "64"]
    with subprocess.Popen(["cat", tmp_path / "in"], stdout=subprocess.PIPE) as cat:
        said = subprocess.run(command, stdin=cat.stdout, capture_output=True, timeout=60)
    assert said.stdout == RAM[:64], said.stderr


def test_a_cut_flattened_stream_around_a_compressed_file_is_said_to_be_cut(vmcore: Path, tmp_path: Path) -> None:
    whole = flat(PACK["zstd without its size"](vmcore.read_bytes()))
    (tmp_path / "in").write_bytes(whole[:-16])
    with pydump.open(tmp_path / "in") as opened:
        assert any("without its end mark" in line for line in opened.image.warnings())
        assert opened.read(1 << 20, len(RAM)) == RAM


@pytest.mark.parametrize("wrap", [flat, gzip.compress], ids=["flat", "gzip"])
def test_wrapping_has_a_bound(wrap: Pack, tmp_path: Path) -> None:
    data = b"\x7fELF"
    for _ in range(6):
        data = wrap(data)
    (tmp_path / "in").write_bytes(data)
    with pytest.raises(SourceError, match="more than (3 times|4 deep); unpack it first"):
        pydump.open(tmp_path / "in")


def test_nothing_stays_open_where_the_inner_file_is_of_no_use(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(flat(gzip.compress(b"nothing that anybody knows")))
    before = os.listdir("/proc/self/fd")
    with pytest.raises(FormatError, match="no installed format reads it"):
        pydump.open(tmp_path / "in")
    assert os.listdir("/proc/self/fd") == before
