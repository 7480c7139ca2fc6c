"""The page on opening a dump in other programs, followed with a booted guest's dump and kernel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from judges import gdb, program
from lab.boot import Guest

from pages import blocks, commands, matches

PAGE = "docs/how-to/open.md"


@pytest.fixture
def place(guest: Callable[[str], Guest], pydump: Callable[..., object], tmp_path: Path) -> Path:
    """A directory with the guest's ``vmcore`` and ``vmlinux``, as the page wants it."""
    g = guest("x86_64")
    pydump("dump", g.elf, tmp_path / "vmcore")
    (tmp_path / "vmlinux").symlink_to(g.vmlinux)
    return tmp_path


def section(title: str) -> list[tuple[str, list[str]]]:
    """What a section of the page has typed, and what that prints."""
    text = "\n".join(block.body for block in blocks(PAGE) if title in block.body and block.kind == "console")
    found = list(commands(text))
    assert found, title
    return found


@pytest.mark.parametrize("tool", ["crash", "drgn", "gdb", "makedumpfile"])
def test_what_the_page_says_happens(tool: str, place: Path) -> None:
    variables = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(place)}
    if not shutil.which(tool, path=variables["PATH"]):
        program(tool, tool)
    typed = [*section("--paging"), *section("KERNELOFFSET")] if tool == "gdb" else section(f"{tool} ")
    script = "".join(f"echo '---'; {command}\n" for command, _ in typed)
    done = subprocess.run(
        ["bash", "-ec", script], cwd=place, env=variables, input="quit\n",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    printed = done.stdout.split("---\n")[1:]
    for (command, shown), said in zip(typed, printed, strict=True):
        assert not shown or matches(shown, said.rstrip("\n") + "\n"), f"{command} printed:\n{said}"


def test_gdb_reads_the_dump_and_not_the_kernels_file(place: Path, guest: Callable[[str], Guest]) -> None:
    """The command line is set when a kernel starts: a gdb that read vmlinux would not have it."""
    g = guest("x86_64")
    elf = place / "memory.elf"
    subprocess.run([sys.executable, "-m", "pydump", "-q", "dump", place / "vmcore", elf, "--format", "elf", "--paging"],
                   check=True, timeout=120)  # fmt: skip
    told = subprocess.run([sys.executable, "-m", "pydump", "info", elf, "--vmcoreinfo"],
                          check=True, capture_output=True, text=True).stdout  # fmt: skip
    offset = int(re.findall(r"^KERNELOFFSET=(\w+)$", told, re.M)[0], 16)
    said = gdb(elf, f"symbol-file -o {offset:#x} {g.vmlinux}", "p &linux_banner", "p saved_command_line")
    banner = re.search(r"LAB sym (\w+) D linux_banner", g.console)
    assert banner
    assert f"0x{banner[1]} <linux_banner>" in said
    assert '"console=ttyS0 ' in said
