"""Who opens what: QEMU's dumps of six architectures and ours, before the programs that read vmcores.

Run it with the tests' Python; it boots the guests it needs, as the tests do, and writes the tables::

    .venv/bin/python tests/integration/support_matrix.py docs/reference/support-matrix.md
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from judges import Tasks, crash, drgn_tasks, gdb, kdumpfile_pages, makedumpfile
from lab.boot import Guest, boot

ARCHES = ("x86_64", "i386", "aarch64", "s390x", "riscv64", "ppc64")
OURS = {"ELF": ("--format", "elf"), "kdump, zlib": ("--compression", "zlib")}
#: On one architecture every compressor is tried, and what a tool needs besides.
MORE = {
    "kdump, none": ("--compression", "none"),
    "kdump, lzo": ("--compression", "lzo"),
    "kdump, snappy": ("--compression", "snappy"),
    "kdump, zstd": ("--compression", "zstd"),
    "kdump, flattened": ("--compression", "zlib", "--flatten"),
    "kdump, RAM alone": ("--compression", "zlib", "--begin", "0", "--length", "256M"),
    "ELF with `--paging`": ("--format", "elf", "--paging"),
}
#: The program counters: gdb's name, and QEMU's monitor's line.
PROGRAM_COUNTERS = {"x86_64": ("rip", r"^RIP=(\w+)"), "i386": ("eip", r"^EIP=(\w+)")}

HEAD = """# Who opens what

Booted Debian guests of six architectures with 2 CPUs, dumped by QEMU 7.2; QEMU's files as they are, and what
`pydump dump` makes of QEMU's ELF. Made by `tests/integration/support_matrix.py`; what is not in these tables was not
tried.
"""

READERS = """
## drgn and libkdumpfile

*drgn* {drgn}: the number of tasks it lists with the guest's `vmlinux`, and for how many of the two CPUs it unwinds a
stack (it cannot on riscv64, and knows no page tables of i386, in any file). *libkdumpfile* {kdumpfile}: whether it
names the architecture, and how many pages it reads equal to the guest's RAM.

| guest | file | drgn | libkdumpfile: architecture | libkdumpfile: pages equal to RAM |
|---|---|---|---|---|
"""

PROGRAMS = """
## crash and makedumpfile

Each is built for the architecture it runs on, here x86_64. *crash* {crash}: does it open the file with the guest's
`vmlinux`, name the kernel, and trace both CPUs back? *makedumpfile* {makedumpfile}: does `-c -d 31` filter it?

| guest | file | crash | makedumpfile |
|---|---|---|---|
"""

ELF_READERS = """
## gdb and readelf

ELF files. *gdb* {gdb}: of how many of the two CPUs has it the program counter that QEMU's monitor showed (a gdb knows
the architectures it was built for, here x86_64 and i386), and does it read the kernel's banner at its virtual address?
*readelf* {readelf}: does it show headers, segments and notes, and complain of nothing?

| guest | file | gdb: CPUs | gdb: kernel memory | readelf |
|---|---|---|---|---|
"""


def readers(guest: Guest, label: str, file: Path, work: Path) -> str:
    """A line of the first table."""
    seen = drgn_tasks(file, guest.vmlinux)
    if isinstance(seen, Tasks) and not seen.stacks:
        drgn = "no: it sees no CPU"
    elif isinstance(seen, Tasks):
        stacks = sum(isinstance(stack, list) and len(stack) > 1 for stack in seen.stacks)
        drgn = f"{seen.tasks} tasks, {stacks} of {len(seen.stacks)} stacks"
    else:
        drgn = f"no: {seen.split(':', 1)[-1].strip()[:90]}"
    try:
        pages = kdumpfile_pages([file], guest.ram, guest.ram_ranges(), work)
        total = guest.visible // pages.page_size
        arch, equal = pages.arch or "none", f"{'all' if pages.same == total else pages.same} of {total}"
    except AssertionError as error:
        why = str(error).strip().splitlines()[-1].rpartition(": ")[2]
        arch, equal = "no", "it dies of a signal" if "exit code -" in str(error) else f"no: {why}"
    return f"| {guest.arch} | {label} | {drgn} | {arch} | {equal} |\n"


def programs(guest: Guest, label: str, file: Path, work: Path) -> str:
    """A line of the second table."""
    release = (guest.vmlinux.parent / "release").read_text().strip()
    try:
        said = crash(file, guest.vmlinux, work)
        right = f"RELEASE: {release}" in said and said.count("PID: ") >= 2
        opened = "yes" if right else f"no: {_reason(said)}"
    except AssertionError as error:
        opened = f"no: {_reason(str(error))}"
    out = work / "filtered"
    done = makedumpfile("-c", "-d", "31", file, out)
    filtered = "no" if done.returncode else "yes"
    out.unlink(missing_ok=True)
    return f"| {guest.arch} | {label} | {opened} | {filtered} |\n"


def elf_readers(guest: Guest, label: str, file: Path) -> str:
    """A line of the third table."""
    command = ["readelf", "-hlSnW", str(file)]
    said = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False).stderr
    listed = f"no: {_reason(said).removeprefix('readelf: ')}" if said else "yes"
    if guest.arch not in PROGRAM_COUNTERS:
        return f"| {guest.arch} | {label} | | | {listed} |\n"
    name, shown = PROGRAM_COUNTERS[guest.arch]
    try:
        said = gdb(file, f"thread apply all -q p/x ${name}", f"x/s {_banner(guest):#x}")
    except AssertionError as error:
        said = str(error)
    truth = [int(value, 16) for value in re.findall(shown, guest.text("registers.txt"), re.M)]
    seen = [int(value, 16) for value in re.findall(r"^\$\d = 0x(\w+)$", said, re.M)]
    right = sum(a == b for a, b in zip(truth, seen, strict=False))
    return f"| {guest.arch} | {label} | {right} of 2 | {'yes' if 'Linux version' in said else 'no'} | {listed} |\n"


def _banner(guest: Guest) -> int:
    """Where the running kernel has its banner: as far from ``_stext`` as in its file."""
    said = subprocess.run(["nm", guest.vmlinux], capture_output=True, text=True, check=True).stdout
    linked = {name: int(at, 16) for at, name in re.findall(r"^(\w+) \w (_stext|linux_banner)$", said, re.M)}
    found = re.search(r"LAB sym (\w+) T _stext", guest.console)
    assert found
    return int(found[1], 16) + linked["linux_banner"] - linked["_stext"]


def _reason(said: str) -> str:
    """The last line that says something, less the file's name, which means nothing to others."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return re.sub(r"/\S+/", "", lines[-1])[:90] if lines else "it says nothing"


def _version(*command: str) -> str:
    """The version that a program tells of itself."""
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"\d+\.\d+[.\d]*", said)
    assert found, said
    return found[0]


def main() -> None:
    """Boot, dump, ask, write."""
    lab = Path(os.environ.get("PYDUMP_LAB", Path.home() / ".cache" / "pydump-lab"))
    of_python = "import importlib.metadata as m; print(m.version('{}'))"
    versions = {
        "drgn": _version(sys.executable, "-c", of_python.format("drgn")),
        "kdumpfile": _version(sys.executable, "-c", of_python.format("pykdumpfile")),
        "crash": _version("crash", "--version"),
        "makedumpfile": _version("makedumpfile", "-v"),
        "gdb": _version("gdb", "--version"),
        "readelf": _version("readelf", "--version"),
    }
    first, second, third = (head.format(**versions) for head in (READERS, PROGRAMS, ELF_READERS))
    with tempfile.TemporaryDirectory(prefix="pydump-matrix-") as directory:
        work = Path(directory)
        for arch in ARCHES:
            guest = boot(arch, lab)
            files = {"QEMU's ELF": guest.elf, "QEMU's kdump": guest.kdump}
            if arch == "x86_64":
                files["QEMU's ELF with paging"] = guest.elf_paging
            for name, options in {**OURS, **(MORE if arch == "x86_64" else {})}.items():
                files[f"our {name}"] = out = work / f"{arch}-{len(files)}"
                subprocess.run([sys.executable, "-m", "pydump", "-q", "dump", guest.elf, out, *options], check=True)
            for label, file in files.items():
                first += readers(guest, label, file, work)
                if arch == "x86_64":
                    second += programs(guest, label, file, work)
                if "ELF" in label:
                    third += elf_readers(guest, label, file)
            for file in files.values():
                if file.parent == work:
                    file.unlink()
        guest = boot("x86_64-high", lab)
        out = work / "high"
        subprocess.run([sys.executable, "-m", "pydump", "-q", "dump", guest.elf, out], check=True)
        second += programs(guest, "our kdump, zlib", out, work).replace("x86_64-high", "x86_64, RAM above 4 GiB")
    Path(sys.argv[1]).write_text(HEAD + first + second + third)


if __name__ == "__main__":
    main()
