"""Who opens what: QEMU's dumps of five architectures and ours, before drgn and libkdumpfile.

Run it with the tests' Python; it boots the guests it needs, as the tests do, and writes the table::

    .venv/bin/python tests/integration/support_matrix.py docs/reference/support-matrix.md
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from judges import Tasks, drgn_tasks, kdumpfile_pages
from lab.boot import Guest, boot

ARCHES = ("x86_64", "aarch64", "s390x", "riscv64", "ppc64")
OURS = {"ELF": ("--format", "elf"), "kdump": ("--compression", "zlib")}

HEAD = """# Who opens what

Booted Debian guests of five architectures, dumped by QEMU 7.2; QEMU's files as they are, and what `pydump dump` makes
of QEMU's ELF. *drgn*: the number of tasks it lists with the guest's `vmlinux`, and for how many of the two CPUs it
unwinds a stack (drgn 0.3.0 cannot unwind on riscv64 in any file). *libkdumpfile*: whether it names the architecture,
and how many pages it reads equal to the guest's RAM. Made by `tests/integration/support_matrix.py`.

| guest | file | drgn | libkdumpfile: architecture | libkdumpfile: pages equal to RAM |
|---|---|---|---|---|
"""


def row(guest: Guest, label: str, file: Path, work: Path) -> str:
    """One line of the table."""
    seen = drgn_tasks(file, guest.vmlinux)
    if isinstance(seen, Tasks):
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


def main() -> None:
    """Boot, dump, ask, write."""
    lab = Path(os.environ.get("PYDUMP_LAB", Path.home() / ".cache" / "pydump-lab"))
    text = HEAD
    with tempfile.TemporaryDirectory(prefix="pydump-matrix-") as directory:
        work = Path(directory)
        for arch in ARCHES:
            guest = boot(arch, lab)
            text += row(guest, "QEMU's ELF", guest.elf, work)
            text += row(guest, "QEMU's kdump", guest.kdump, work)
            for name, options in OURS.items():
                out = work / f"{arch}-{name}"
                subprocess.run([sys.executable, "-m", "pydump", "-q", "dump", guest.elf, out, *options], check=True)
                text += row(guest, f"our {name}", out, work)
                out.unlink()
    Path(sys.argv[1]).write_text(text)


if __name__ == "__main__":
    main()
