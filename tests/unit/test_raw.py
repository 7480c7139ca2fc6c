"""``raw:``: parts of files, and a PC's memory around its hole."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest
import zstandard

import pydump
from pydump.errors import PlanError

GIB = 1 << 30


@pytest.fixture
def pc_backend(tmp_path: Path) -> Path:
    """The backend file of a 5 GiB PC: 3 GiB below the hole, and directly behind them what the guest has at 4 GiB.

    Source: QEMU, pc_init1 in hw/i386/pc_piix.c.
    """
    path = tmp_path / "pc.ram"
    with path.open("wb") as file:
        file.truncate(5 * GIB)
        os.pwrite(file.fileno(), b"LOWTOP__", 0xBFFFF000)
        os.pwrite(file.fileno(), b"AT4GIB__", 0xC0000000)
    return path


@pytest.mark.parametrize("arch", ["x86_64", "i386"])
@pytest.mark.parametrize("how", ["", "@0", "@0x0"])
def test_a_pc_backend_of_more_than_3_gib_says_the_right_words(pc_backend: Path, arch: str, how: str) -> None:
    with pydump.open(f"raw:{pc_backend}{how}", arch=arch) as opened, pytest.raises(PlanError) as caught:
        opened.guest  # noqa: B018
    assert "raw:FILE[0:3G]@0,FILE[3G:]@4G" in (caught.value.hint or "")
    with pytest.raises(PlanError, match="hole below 4 GiB"):
        pydump.dump(f"raw:{pc_backend}{how}", "/dev/null", arch=arch, dry_run=True)


@pytest.mark.parametrize("arch", ["x86_64", "i386"])
def test_the_right_words_put_a_pc_backend_where_its_guest_has_it(pc_backend: Path, arch: str) -> None:
    with pydump.open(f"raw:{pc_backend}[0:3G]@0,{pc_backend}[3G:]@4G", arch=arch) as opened:
        assert [(b.paddr, b.size) for b in opened.guest.memory] == [(0, 3 * GIB), (4 * GIB, 2 * GIB)]
        assert opened.read(0xBFFFF000, 8) == b"LOWTOP__"
        assert opened.read(4 * GIB, 8) == b"AT4GIB__"
        assert [value for _, value in opened.image.describe()] == [
            f"{pc_backend}[0x0:0xc0000000] at 0x0",
            f"{pc_backend}[0xc0000000:0x80000000] at 0x100000000",
        ]
    with pydump.open(f"raw:{pc_backend}[0:]@0", arch=arch) as opened:
        assert opened.guest.memory.size == 5 * GIB, "an image that has the hole in it"


@pytest.mark.parametrize("arch", ["aarch64", "riscv64", "s390x", "ppc64le"])
def test_machines_without_such_a_hole_take_the_whole_file(pc_backend: Path, arch: str) -> None:
    with pydump.open(f"raw:{pc_backend}", arch=arch) as opened:
        assert opened.guest.memory.size == 5 * GIB


def test_a_pc_of_3_gib_and_one_placed_elsewhere_are_taken_as_they_are(tmp_path: Path) -> None:
    for size, where in ((3 * GIB, "0"), (4 * GIB, "4G")):
        with (tmp_path / "ram").open("wb") as file:
            file.truncate(size)
        with pydump.open(f"raw:{tmp_path}/ram@{where}", arch="x86_64") as opened:
            assert opened.guest.memory.size == size


@pytest.mark.parametrize(
    ("part", "start", "end"),
    [
        ("[:]", 0, 100),
        ("[0:]", 0, 100),
        ("[:40]", 0, 40),
        ("[0x10:]", 16, 100),
        ("[16:20]", 16, 36),
        ("[99:1]", 99, 100),
    ],
)
def test_a_part_of_a_file(part: str, start: int, end: int, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(range(100)))
    with pydump.open(f"raw:{tmp_path}/f{part}@1M") as opened:
        assert opened.read(1 << 20, end - start) == bytes(range(start, end))


@pytest.mark.parametrize("part", ["[100:]", "[0:101]", "[99:2]", "[5:0]", "[x:]", "[1:2:3]", "[-1:5]"])
def test_what_is_no_part_of_the_file_is_refused(part: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(100))
    with pytest.raises(pydump.PydumpError):
        pydump.open(f"raw:{tmp_path}/f{part}")


@pytest.mark.parametrize("bad", ["[3G:", "3G:]", "[3G]", "[1:2:3]", "[]"])
def test_a_bracket_that_is_not_a_part_says_how_to_write_one(bad: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(8192))
    with pytest.raises(PlanError, match="the bracket in ") as caught:
        pydump.open(f"raw:{tmp_path}/f[0:4K]@0,{tmp_path}/f{bad}@4G")
    assert "raw:PATH[OFFSET:SIZE]@PADDR, as raw:ram[0:3G]@0,ram[3G:]@4G" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\x7fELF\2\1\1", "an elf file"),
        (b"KDUMP   ", "a kdump file"),
        (b"makedumpfile\0\0\0\0" + (1).to_bytes(8, "big") * 2, "a flattened dump"),
        (b"EMiL\1\0\0\0", "a lime file"),
        (b"LKCD\0", ""),
        (bytes.fromhex("ed238f61730119a8"), "an LKCD dump"),
    ],
)
def test_a_dump_that_is_taken_as_bare_memory_is_warned_of(head: bytes, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(head.ljust(8192, b"\0"))
    for how, warned in (("@0", bool(kind)), ("[0:]@0", False)):
        with pydump.open(f"raw:{path}{how}", arch="x86_64") as opened:
            assert opened.read(0, len(head)) == head
            assert len(opened.warnings) == warned
    if kind:
        with pydump.open(f"raw:{path}@0x1000", arch="x86_64") as opened:
            (warning,) = opened.warnings
        assert warning == (
            f"{path} begins like {kind}, and its bytes are taken as RAM: leave raw: out to read what it holds, "
            f"or write raw:{path}[0:]@0x1000 where they are RAM"
        )


def test_a_file_of_that_very_name_comes_first(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"wrong")
    (tmp_path / "f[1:2]").write_bytes(b"right")
    with pydump.open(f"raw:{tmp_path}/f[1:2]@0") as opened:
        assert opened.read(0, 5) == b"right"


def test_compressed_bare_memory_is_unpacked_unless_a_part_is_named(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(gzip.compress(b"guest memory" * 1000))
    with pydump.open(f"raw:{tmp_path}/f@0") as opened:
        assert opened.read(0, 12) == b"guest memory"
    with pydump.open(f"raw:{tmp_path}/f[0:]@0") as opened:
        assert opened.read(0, 2) == b"\x1f\x8b"
    (tmp_path / "f").write_bytes(zstandard.compress(b"guest memory" * 1000))
    with pytest.raises(PlanError, match="is compressed"):
        pydump.open(f"raw:{tmp_path}/f@0")


def test_memory_that_does_not_begin_at_a_page_is_warned_of(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(8192))
    (tmp_path / "b").write_bytes(bytes(8192))
    with pydump.open(f"raw:{tmp_path}/a@0x100000,{tmp_path}/b@0x200010", arch="x86_64") as opened:
        (warning,) = opened.image.warnings()
    assert warning == (
        f"{tmp_path}/b is placed at 0x200010, which is not a multiple of 0x1000: RAM begins at a page; "
        "is the address right?"
    )


def test_nothing_stays_open_after_an_error(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(100))
    before = len(os.listdir("/proc/self/fd"))
    for bad in (
        f"{tmp_path}/f,{tmp_path}/f",
        f"{tmp_path}/f,{tmp_path}/f[200:]@1M",
        f"{tmp_path}/f@0,@5",
        f"{tmp_path}/f@0,x@0",
    ):
        with pytest.raises(pydump.PydumpError):
            pydump.open(f"raw:{bad}")
    assert len(os.listdir("/proc/self/fd")) == before
