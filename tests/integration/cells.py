"""The cells of the support matrix: a program is asked whether a file of a guest is what the guest was.

Each question gives an empty text where the answer is right, and else what was wrong, in the program's own words.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from judges import (
    crash,
    drgn_tasks,
    gdb,
    kdmp_parser,
    kdumpfile_pages,
    makedumpfile,
    program,
    require,
    volatility_memory,
)
from lab.boot import Guest
from lab.windows import staged

import pydump as api
from windows_guest import BLOCKS, WindowsGuest

#: What a guest is called in the page, where that is not its name in the lab.
NAMES: Final = {"ppc64": "ppc64le"}
ARCHES: Final = ("x86_64", "i386", "aarch64", "arm", "s390x", "ppc64", "riscv64")
#: How pydump is asked for each file, and which programs say that they read such files.
_DUMPS = ("libkdumpfile", "drgn", "crash", "makedumpfile")
FORMS: Final[dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "QEMU's ELF": ((), (*_DUMPS, "gdb", "readelf", "Volatility")),
    "QEMU's ELF, paging": ((), (*_DUMPS, "gdb", "readelf", "Volatility")),
    "QEMU's kdump": ((), _DUMPS),
    "ELF": (("--format", "elf"), (*_DUMPS, "gdb", "readelf", "Volatility")),
    "ELF, `--paging`": (("--format", "elf", "--paging"), (*_DUMPS, "gdb", "readelf", "Volatility")),
    "kdump": (("--compression", "zlib"), _DUMPS),
    "kdump, lzo": (("--compression", "lzo"), _DUMPS),
    "kdump, snappy": (("--compression", "snappy"), _DUMPS),
    "kdump, zstd": (("--compression", "zstd"), _DUMPS),
    "kdump, `--flatten`": (("--compression", "zlib", "--flatten"), _DUMPS),
    "kdump, `--split 2`": (("--compression", "zlib", "--split", "2"), ("libkdumpfile", "crash", "makedumpfile")),
    "LiME": (("--format", "lime"), ("Volatility",)),
    "AVML": (("--format", "avml"), ("Volatility",)),
    "raw": (("--format", "raw"), ("crash", "Volatility")),
}
#: Of x86_64 alone: what does not depend on the architecture, and what only QEMU of x86 makes.
X86_64_ONLY: Final = ("kdump, lzo", "kdump, snappy", "kdump, zstd", "QEMU's ELF, paging")
#: Windows crash dumps, of made-up guests: bits, and whether it has a bitmap.
WINDOWS: Final = {
    "win-dmp, 64-bit": (64, False),
    "win-dmp, 64-bit, bitmap": (64, True),
    "win-dmp, 32-bit": (32, False),
    "win-dmp, 32-bit, bitmap": (32, True),
}
JUDGES: Final = ("libkdumpfile", "drgn", "crash", "makedumpfile", "gdb", "readelf", "Volatility", "kdmp-parser")
#: The program counters in what QEMU's monitor shows of registers.
PROGRAM_COUNTERS: Final = {
    "x86_64": r"^RIP=(\w+)",
    "i386": r"^EIP=(\w+)",
    "aarch64": r"^ PC=(\w+)",
    "arm": r"R15=(\w+)",
    "s390x": r"^PSW=mask \w+ addr (\w+)",
    "riscv64": r"^ pc +(\w+)",
    "ppc64": r"^NIP (\w+)",
}
#: What gdb is called that knows all architectures.
MULTIARCH: Final = "gdb-multiarch"
SPAN: Final = 16 << 20


@dataclass(frozen=True)
class File:
    """A file of a guest, or the parts of one.

    Attributes:
        guest: Whose memory it holds.
        form: Its key in FORMS.
        parts: Its parts, or the one file.
        work: A directory.
    """

    guest: Guest
    form: str
    parts: tuple[Path, ...]
    work: Path

    @property
    def path(self) -> Path:
        """The file, or its first part."""
        return self.parts[0]

    @property
    def release(self) -> str:
        """The guest's kernel's."""
        return (self.guest.vmlinux.parent / "release").read_text().strip()


def forms(arch: str) -> list[str]:
    """The files that are made of a guest."""
    return [form for form in FORMS if arch == "x86_64" or form not in X86_64_ONLY]


def claims(arch: str, form: str) -> list[str]:
    """The programs that say that they read such a file."""
    return [judge for judge in FORMS[form][1] if (judge, form) != ("crash", "raw") or arch == "x86_64"]


def make(guest: Guest, form: str, work: Path) -> File:
    """A file of a guest, made from QEMU's ELF unless it is QEMU's own."""
    theirs = {"QEMU's ELF": guest.elf, "QEMU's ELF, paging": guest.elf_paging, "QEMU's kdump": guest.kdump}
    if form in theirs:
        return File(guest, form, (theirs[form],), work)
    options, _ = FORMS[form]
    out = work / f"{guest.arch}-{re.sub('[^a-z0-9]+', '-', form.lower()).strip('-')}"
    parts = (out,)
    if "--split" in options:
        parts = tuple(out.with_name(f"{out.name}.{i}") for i in range(2))
        out = out.with_name(f"{out.name}.%d")
    if not parts[0].exists():
        _pydump("dump", "--force", "--no-sync", guest.elf, out, *options)
    return File(guest, form, parts, work)


def _pydump(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pydump", "-q", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr


def ask_libkdumpfile(file: File) -> str:
    """Does it name the architecture, and read every page?"""
    guest = file.guest
    try:
        pages = kdumpfile_pages(list(file.parts), guest.ram, guest.ram_ranges(), file.work)
    except AssertionError as error:
        return _last(str(error))
    names = {"i386": "ia32"}
    if pages.arch != names.get(guest.arch, guest.arch):
        return f"it takes the architecture for {pages.arch}"
    if pages.same * pages.page_size != guest.visible:
        return f"pages are missing or different: {(pages.missing or pages.different)[0]}"
    return ""


def ask_drgn(file: File) -> str:
    """Does it list as many tasks as the guest has, and unwind the stack of each?"""
    seen = drgn_tasks(file.path, file.guest.vmlinux)
    if isinstance(seen, str):
        return seen
    counted = int(file.guest.console.split("LAB tasks ")[1].split()[0])
    if not counted - 8 <= seen.tasks <= counted + 2:
        return f"it lists {seen.tasks} tasks, and the guest has {counted}"
    for stack in seen.task_stacks:
        if isinstance(stack, str):
            return stack
        if "__schedule" not in stack and stack not in seen.stacks:
            return f"a stack without __schedule: {stack}"
    return ""


def ask_crash(file: File) -> str:
    """Does it name the kernel, and trace both CPUs back?"""
    path: Path = file.path
    options: tuple[str, ...] = ()
    if file.form == "raw":  # which does not say by how much addresses are shifted
        path, options = path.with_name(f"{path.name}@0x0"), _shifts(file.guest)
    try:
        said = crash(path, file.guest.vmlinux, file.work, others=file.parts[1:], options=options)
    except AssertionError as error:
        return _last(str(error))
    return "" if f"RELEASE: {file.release}" in said and said.count("PID: ") >= 2 else _last(said)


def _shifts(guest: Guest) -> tuple[str, ...]:
    """What crash must be told of a guest whose file has no VMCOREINFO that it looks for."""
    with api.open(guest.elf) as dump:
        text = dump.guest.vmcoreinfo
        assert text
        offset, base = text.hexadecimal("KERNELOFFSET"), text.number("phys_base")
    return ("--kaslr", f"{offset:#x}", "-m", f"phys_base={base & (1 << 64) - 1:#x}") if base is not None else ()


def ask_makedumpfile(file: File) -> str:
    """Does it filter the file; unflatten it with ``-R``; or join its parts with ``--reassemble``?"""
    out = file.work / "makedumpfile-out"
    out.unlink(missing_ok=True)
    try:
        if "flatten" in file.form:
            done = makedumpfile("-R", out, stdin=file.path)
        elif "split" in file.form:
            done = makedumpfile("--reassemble", *file.parts, out)
        else:
            done = makedumpfile("-c", "-d", "31", file.path, out)
        if done.returncode:
            return _last(done.stdout + done.stderr)
        if "flatten" in file.form or "split" in file.form:
            _pydump("compare", file.guest.elf, out)
        else:
            _pydump("verify", out)
        return ""
    finally:
        out.unlink(missing_ok=True)


def ask_gdb(file: File) -> str:
    """Has it every CPU's program counter, and reads the kernel's banner where the file has virtual addresses?"""
    x86 = file.guest.arch in ("x86_64", "i386")
    require(x86 or shutil.which(MULTIARCH), MULTIARCH, f"apt install {MULTIARCH}")
    commands = ["thread apply all -q p/x $pc"]
    if "paging" in file.form:
        commands.append(f"x/s {banner(file.guest):#x}")
    try:
        said = gdb(file.path, *commands, by=shutil.which(MULTIARCH) or "")
    except AssertionError as error:
        return _last(str(error))
    truth = re.findall(PROGRAM_COUNTERS[file.guest.arch], file.guest.text("registers.txt"), re.M)
    seen = re.findall(r"^\$\d+ = 0x(\w+)$", said, re.M)
    if [int(value, 16) for value in seen] != [int(value, 16) for value in truth]:
        return f"program counters {seen}, not {truth}"
    if "paging" in file.form and f"Linux version {file.release}" not in said:
        return "no kernel memory"
    return ""


def banner(guest: Guest) -> int:
    """Where the running kernel has its banner: as far from ``_stext`` as in its file."""
    said = subprocess.run(["nm", guest.vmlinux], capture_output=True, text=True, check=True).stdout
    linked = {name: int(at, 16) for at, name in re.findall(r"^(\w+) \w (_stext|linux_banner)$", said, re.M)}
    found = re.search(r"LAB sym (\w+) T _stext", guest.console)
    assert found
    return int(found[1], 16) + linked["linux_banner"] - linked["_stext"]


def ask_readelf(file: File) -> str:
    """Does it show headers, segments and notes, and complain of nothing?"""
    command = [program("readelf", "binutils"), "-hlSnW", str(file.path)]
    return _last(subprocess.run(command, capture_output=True, text=True, errors="replace", check=False).stderr)


def ask_volatility(file: File) -> str:
    """Does its layer return the guest's RAM?"""
    spans = [
        (at, min(at + SPAN, end), offset + at - start)
        for start, end, offset in file.guest.ram_ranges()
        for at in range(start, end, SPAN)
    ]
    try:
        _, found, _ = volatility_memory(file.path, [(start, end) for start, end, _ in spans], raw=file.form == "raw")
    except AssertionError as error:
        return _last(str(error))
    with file.guest.ram.open("rb") as ram:
        for (start, end, offset), digest in zip(spans, found, strict=True):
            ram.seek(offset)
            if hashlib.sha256(ram.read(end - start)).hexdigest() != digest:
                return f"memory from {start:#x} differs"
    return ""


ASK: Final[dict[str, Callable[[File], str]]] = {
    "libkdumpfile": ask_libkdumpfile,
    "drgn": ask_drgn,
    "crash": ask_crash,
    "makedumpfile": ask_makedumpfile,
    "gdb": ask_gdb,
    "readelf": ask_readelf,
    "Volatility": ask_volatility,
}


def windows_dump(form: str, work: Path) -> tuple[Path, bytes]:
    """A Windows crash dump of a made-up guest, and the memory that it holds, from 0 on."""
    bits, bitmap = WINDOWS[form]
    guest = WindowsGuest(bits, pae=bits == 32)
    source, theirs, out = (work / f"{re.sub('[^a-z0-9]+', '-', form)}.{name}" for name in ("elf", "theirs", "dmp"))
    with staged(guest, guest.header(), work) as live:
        for path, format_ in ((source, "elf"), (theirs, "win-dmp")):
            live.qmp.command("dump-guest-memory", paging=False, protocol=f"file:{path}", format=format_)
    end = sum(BLOCKS[-1])
    with api.open(source) as dump:
        memory = bytearray(dump.read(0, end))
    at = len(guest.header())
    for start, size in BLOCKS:  # with the contexts that QEMU wrote
        memory[start : start + size] = theirs.read_bytes()[at : at + size]
        at += size
    # Without QEMU's flash below 4 GiB. Of a file whose end is missing a bitmap dump is made.
    api.dump(source, work / "windows.elf", format="elf", length=end, force=True, sync=False)
    lost = 8 << 12 if bitmap else 0
    os.truncate(work / "windows.elf", (work / "windows.elf").stat().st_size - lost)
    api.dump(work / "windows.elf", out, format="windmp", force=True, sync=False)
    return out, bytes(memory[: end - lost])


def ask_windows(judge: str, form: str, path: Path, memory: bytes) -> str:
    """Does the program return the memory of a Windows crash dump?"""
    digest = hashlib.sha256(memory).hexdigest()
    try:
        if judge == "kdmp-parser":
            return "" if kdmp_parser(path)["sha256"] == digest else "memory differs"
        return "" if volatility_memory(path, [(0, len(memory))])[1] == [digest] else "memory differs"
    except AssertionError as error:
        return _last(str(error))


def _last(said: str) -> str:
    """The last line that says something, less the file's name, which means nothing to others."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return re.sub(r"/\S+/", "", lines[-1]) if lines else ""
