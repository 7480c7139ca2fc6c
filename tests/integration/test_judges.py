"""What others see in our dumps of booted guests: every page, the architecture, the tasks and the stacks."""

from __future__ import annotations

import filecmp
import json
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from judges import Tasks, crash, drgn_tasks, kdumpfile_pages, makedumpfile, newest, program, volatility_banners
from lab.boot import Guest

Pydump = Callable[..., subprocess.CompletedProcess[str]]
ARCHES = ("x86_64", "aarch64", "s390x", "riscv64", "ppc64")
#: What libkdumpfile calls an architecture, where the name is its own.
ARCH_NAMES = {"i386": "ia32"}
#: How a dump is written: a name, and the options of pydump dump.
FORMS = {
    "elf": ("--format", "elf"),
    "kdump-none": ("--compression", "none"),
    "kdump-zlib": ("--compression", "zlib"),
    "kdump-lzo": ("--compression", "lzo"),
    "kdump-snappy": ("--compression", "snappy"),
    "kdump-zstd": ("--compression", "zstd"),
}
FLAT_FORMS = {f"{name}-flattened": (*options, "--flatten") for name, options in FORMS.items()}


@pytest.fixture(scope="module")
def ours(
    guest: Callable[[str], Guest], pydump: Pydump, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Path]:
    """Our dump of a guest in a form, made from QEMU's ELF dump."""
    directory = tmp_path_factory.mktemp("ours")

    def make(arch: str, form: str) -> Path:
        out = directory / f"{arch}-{form}"
        if not out.exists():
            pydump("dump", guest(arch).elf, out, *{**FORMS, **FLAT_FORMS}[form])
        return out

    return make


@pytest.mark.parametrize(
    ("arch", "form"),
    # Flattening does not depend on the architecture.
    [*((arch, form) for arch in (*ARCHES, "i386") for form in FORMS), *(("x86_64", form) for form in FLAT_FORMS)],
)
def test_libkdumpfile_reads_every_page(
    arch: str, form: str, guest: Callable[[str], Guest], ours: Callable[[str, str], Path], tmp_path: Path
) -> None:
    g = guest(arch)
    pages = kdumpfile_pages([ours(arch, form)], g.ram, g.ram_ranges(), tmp_path)
    print(pages.library)
    assert pages.missing == []
    assert pages.different == []
    assert pages.same * pages.page_size == g.visible
    assert pages.arch == ARCH_NAMES.get(arch, arch)
    assert pages.cpus == 2
    assert pages.release == (g.vmlinux.parent / "release").read_text().strip()


@pytest.mark.parametrize("form", ["elf", "kdump-zlib", "kdump-zstd"])
@pytest.mark.parametrize("arch", ARCHES)
def test_drgn_lists_tasks_and_stacks(
    arch: str, form: str, guest: Callable[[str], Guest], ours: Callable[[str, str], Path]
) -> None:
    g = guest(arch)
    seen = drgn_tasks(ours(arch, form), g.vmlinux)
    assert isinstance(seen, Tasks), seen
    # The guest counted its own processes just before it stopped, idle tasks not included.
    counted = int(g.console.split("LAB tasks ")[1].split()[0])
    assert counted - 8 <= seen.tasks <= counted + 2
    assert len(seen.stacks) == 2
    for stack in seen.stacks:
        if arch == "riscv64":
            assert "not supported for RISC-V" in stack  # drgn cannot unwind there, in any file
        else:
            assert "do_idle" in stack or "cpu_startup_entry" in stack or len(stack) > 3


def test_drgn_sees_in_ours_what_it_sees_in_qemus_elf(
    guest: Callable[[str], Guest], ours: Callable[[str, str], Path]
) -> None:
    g = guest("x86_64")
    theirs = drgn_tasks(g.elf, g.vmlinux)
    assert isinstance(theirs, Tasks)
    for form in FORMS:
        assert drgn_tasks(ours("x86_64", form), g.vmlinux) == theirs
    # It opens no kdump of QEMU's at all, which is why ours matter.
    assert isinstance(drgn_tasks(g.kdump, g.vmlinux), str)


@pytest.mark.parametrize("arch", ["x86_64", "i386"])
def test_volatility_finds_the_kernel_where_it_is_in_qemus_elf(
    arch: str, guest: Callable[[str], Guest], ours: Callable[[str, str], Path], tmp_path: Path
) -> None:
    g = guest(arch)
    release = (g.vmlinux.parent / "release").read_text().strip()
    found = volatility_banners(ours(arch, "elf"), tmp_path)
    assert any(banner.startswith(f"Linux version {release} ") for _, banner in found)
    assert found == volatility_banners(g.elf, tmp_path)


# crash reads flattened kdump files, but no flattened ELF.
@pytest.mark.parametrize("form", [*FORMS, *(form for form in FLAT_FORMS if form != "elf-flattened")])
def test_crash_answers(
    form: str, guest: Callable[[str], Guest], ours: Callable[[str, str], Path], tmp_path: Path
) -> None:
    g = guest("x86_64")
    said = crash(ours("x86_64", form), g.vmlinux, tmp_path)
    release = (g.vmlinux.parent / "release").read_text().strip()
    assert f"RELEASE: {release}" in said
    assert "CPUS: 2" in said
    assert said.count("PID: ") >= 2  # bt -a: a backtrace for each CPU
    assert f"Linux version {release}" in said  # the log
    assert "error" not in said.lower().split("linux version")[0]


def test_makedumpfile_filters_our_elf(
    guest: Callable[[str], Guest], ours: Callable[[str, str], Path], tmp_path: Path, pydump: Pydump
) -> None:
    g = guest("x86_64")
    out = tmp_path / "filtered"
    done = makedumpfile("-c", "-d", "31", ours("x86_64", "elf"), out)
    assert done.returncode == 0, done.stdout + done.stderr
    # QEMU's own layout is what it does not read.
    assert makedumpfile("-c", "-d", "31", g.elf, tmp_path / "refused").returncode != 0
    # And what it wrote is the same guest to us, less what it left out.
    pydump("verify", out)
    pydump("dump", out, tmp_path / "again", "--compression", "lzo")
    pydump("compare", out, tmp_path / "again")


class TestMakedumpfileFiltersOurKdump:
    """Where the kernel's memory map goes as far as the file's bitmaps.

    makedumpfile takes the lower of the two for max_mapnr, and then looks for the second bitmap where it would be in a
    file of that size, not where the header says. In a dump of a PC whose RAM ends below 4 GiB the firmware just below
    4 GiB makes the difference: the file holds pages that the kernel has no memory map of. It finds no bit set, and
    gives up without a word. QEMU's kdump files of such guests fail for the same reason.

    Source: makedumpfile 1.7.2, get_mem_map, prepare_bitmap2_buffer and copy_bitmap_file; its initialize_bitmap_memory
    does it right.
    """

    @staticmethod
    def filtered(kdump: Path, pydump: Pydump) -> Path | None:
        """What makedumpfile makes of it; None where it fails."""
        out = kdump.with_suffix(".filtered")
        if makedumpfile("-c", "-d", "31", kdump, out).returncode:
            return None
        pydump("verify", out)
        return out

    @pytest.mark.parametrize("codec", ["zlib", "lzo"])
    def test_with_ram_above_4g(self, codec: str, guest: Callable[[str], Guest], tmp_path: Path, pydump: Pydump) -> None:
        g = guest("x86_64-high")
        pydump("dump", g.elf, tmp_path / "elf", "--format", "elf")
        pydump("dump", g.elf, tmp_path / "kdump", "--compression", codec)
        out = self.filtered(tmp_path / "kdump", pydump)
        assert out
        assert makedumpfile("-c", "-d", "31", tmp_path / "elf", tmp_path / "from-elf").returncode == 0
        pydump("compare", out, tmp_path / "from-elf")

    @pytest.mark.parametrize("codec", ["zlib", "lzo"])
    def test_without_the_firmware(
        self, codec: str, guest: Callable[[str], Guest], tmp_path: Path, pydump: Pydump
    ) -> None:
        g = guest("x86_64")
        pydump("dump", g.elf, tmp_path / "ram", "--compression", codec, "--begin", "0", "--length", "256M")
        assert self.filtered(tmp_path / "ram", pydump)

    def test_the_bitmap_is_what_it_does_not_find(
        self, guest: Callable[[str], Guest], ours: Callable[[str, str], Path], tmp_path: Path, pydump: Pydump
    ) -> None:
        kdump = ours("x86_64", "kdump-zlib")
        assert self.filtered(kdump, pydump) is None
        # The second bitmap's first part, put where makedumpfile looks for it, is all that it wants.
        moved = tmp_path / "moved"
        data = bytearray(kdump.read_bytes())
        block_size, sub_hdr_size, bitmap_blocks = struct.unpack_from("<iiI", data, 428)
        bitmaps, second = (1 + sub_hdr_size) * block_size, bitmap_blocks // 2 * block_size
        size = guest("x86_64").ram.stat().st_size // 4096 // 8
        assert size % block_size == 0
        assert not any(data[bitmaps + size : bitmaps + 2 * size])
        data[bitmaps + size : bitmaps + 2 * size] = data[bitmaps + second : bitmaps + second + size]
        moved.write_bytes(data)
        assert self.filtered(moved, pydump)


@pytest.mark.parametrize("arch", ARCHES)
def test_makedumpfile_unflattens_ours(
    arch: str, guest: Callable[[str], Guest], ours: Callable[[str, str], Path], tmp_path: Path, pydump: Pydump
) -> None:
    flat, plain = tmp_path / "flat", tmp_path / "plain"
    pydump("dump", guest(arch).elf, flat, "--flatten")
    done = makedumpfile("-R", plain, stdin=flat)
    assert done.returncode == 0, done.stdout + done.stderr
    assert filecmp.cmp(plain, ours(arch, "kdump-zlib"), shallow=False)


@pytest.mark.parametrize("arch", ARCHES)
def test_there_and_back_is_the_same_guest(
    arch: str, guest: Callable[[str], Guest], ours: Callable[[str, str], Path], tmp_path: Path, pydump: Pydump
) -> None:
    g = guest(arch)
    pydump("dump", ours(arch, "kdump-zlib"), tmp_path / "elf", "--format", "elf")
    pydump("compare", g.elf, tmp_path / "elf")
    assert filecmp.cmp(tmp_path / "elf", ours(arch, "elf"), shallow=False)


@pytest.mark.parametrize("arch", ARCHES)
def test_qemus_kdump_is_the_same_guest(
    arch: str, guest: Callable[[str], Guest], tmp_path: Path, pydump: Pydump
) -> None:
    g = guest(arch)
    pydump("dump", g.kdump, tmp_path / "out", "--compression", "zlib")
    pydump("compare", g.elf, tmp_path / "out")
    pages = kdumpfile_pages([tmp_path / "out"], g.ram, g.ram_ranges(), tmp_path)
    assert pages.same * pages.page_size == g.visible


@pytest.mark.parametrize(
    "arguments",
    [
        ("-c", "-d", "1"),
        ("-l", "-d", "1"),
        ("-c", "-d", "31"),
        ("-l", "-d", "31"),
        ("-d", "1"),
        ("-E", "-d", "31"),
        ("-c", "-d", "31", "-F"),
        ("-c", "-d", "1", "--split", "--splitblock-size", "16"),
    ],
    ids=" ".join,
)
def test_what_makedumpfile_writes_comes_in(
    arguments: tuple[str, ...], ours: Callable[[str, str], Path], tmp_path: Path, pydump: Pydump
) -> None:
    elf = ours("x86_64", "elf")
    outputs = [tmp_path / "one", tmp_path / "two"] if "--split" in arguments else [tmp_path / "one"]
    if "-F" in arguments:
        with outputs[0].open("wb") as stream:
            command = [program("makedumpfile", "makedumpfile"), *arguments, str(elf)]
            assert subprocess.run(command, stdout=stream, stderr=subprocess.PIPE, timeout=120).returncode == 0
    else:
        done = makedumpfile(*arguments, elf, *outputs)
        assert done.returncode == 0, done.stdout + done.stderr
    theirs = ",".join(map(str, outputs))
    pydump("verify", theirs)
    pydump("dump", theirs, tmp_path / "kdump", "--compression", "zstd")
    pydump("compare", theirs, tmp_path / "kdump")
    pydump("dump", theirs, tmp_path / "elf", "--format", "elf")
    pydump("compare", theirs, tmp_path / "elf")
    if "31" not in arguments:
        # makedumpfile leaves out what the kernel has no memory map of: the firmware below 4 GiB.
        said = json.loads(pydump("compare", elf, tmp_path / "kdump", "--json", expect=4).stdout)
        assert [(d["kind"], d["paddr"], d["size"], d["left"], d["right"]) for d in said["differences"]] == [
            ("held", 0xFFFC0000, 0x40000, True, False)
        ]


@pytest.mark.parametrize(("n", "codec"), [(2, "zlib"), (3, "lzo"), (7, "zstd"), (7, "none")])
def test_a_split_dump_is_read_and_reassembled(
    n: int, codec: str, guest: Callable[[str], Guest], lab: Path, tmp_path: Path, pydump: Pydump
) -> None:
    g = guest("x86_64")
    pydump("dump", g.elf, tmp_path / "part.%d", "--split", str(n), "--compression", codec)
    parts = [tmp_path / f"part.{i}" for i in range(n)]
    pages = kdumpfile_pages(parts, g.ram, g.ram_ranges(), tmp_path)
    assert (pages.missing, pages.different) == ([], [])
    assert pages.same * pages.page_size == g.visible
    said = crash(parts[0], g.vmlinux, tmp_path, others=parts[1:])
    assert all(part.name in said for part in parts), said[:500]
    assert said.count("PID: ") >= 2
    by = newest(lab, "makedumpfile") if codec == "zstd" else ()  # Debian 12's knows no zstd
    joined = makedumpfile("--reassemble", *parts, tmp_path / "whole", by=by)
    assert joined.returncode == 0, joined.stdout + joined.stderr
    pydump("compare", g.elf, tmp_path / "whole")
    assert kdumpfile_pages([tmp_path / "whole"], g.ram, g.ram_ranges(), tmp_path).different == []


def test_makedumpfiles_split_set_is_what_it_reassembles(
    ours: Callable[[str, str], Path], tmp_path: Path, pydump: Pydump
) -> None:
    one, two, whole = (tmp_path / name for name in ("one", "two", "whole"))
    split = makedumpfile("--split", "--splitblock-size", "16", "-l", "-d", "31", ours("x86_64", "elf"), one, two)
    assert split.returncode == 0, split.stdout + split.stderr
    joined = makedumpfile("--reassemble", one, two, whole)
    assert joined.returncode == 0, joined.stdout + joined.stderr
    pydump("compare", f"{one},{two}", whole)
