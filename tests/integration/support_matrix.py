"""Who opens what: the page ``docs/reference/support-matrix.md``, which this writes.

Run it with the tests' Python; it boots the guests it needs, as the tests do, and asks every program about every file::

    .venv/bin/python tests/integration/support_matrix.py [GUEST...]

With names of guests it does these alone, and keeps the rest of the page. ``test_support_matrix.py`` asks about some.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(1, str(Path(__file__).parents[1]))

from cells import ARCHES, ASK, JUDGES, MULTIARCH, NAMES, WINDOWS, ask_windows, claims, forms, make, windows_dump
from lab.boot import boot

PAGE: Final = Path(__file__).parents[2] / "docs/reference/support-matrix.md"
#: What the guests of WINDOWS are called.
MADE_UP: Final = "Windows"
#: Why an answer is not the right one. The numbers in the page are places in this list.
REASONS: Final = tomllib.loads((Path(__file__).parent / "support_reasons.toml").read_text())["reason"]
HEAD = """# Who opens what

Debian guests with 2 CPUs, dumped by QEMU 7.2; QEMU's files as they are, and what `pydump dump` makes of QEMU's ELF. The
Windows guests are made up: page tables, processors and the debugger's data, without a Windows.
`tests/integration/support_matrix.py` writes this page. A test asks again about some of the cells.

- **yes**: the program was asked, and its answer was right.
- **no** and a number: it was asked, and its answer was not right, for the reason below the table.
- Empty: the program does not claim to read such a file.

What is asked:

| program | question |
|---|---|
| libkdumpfile {libkdumpfile} | Does it name the architecture, and is every page the one in the guest's RAM? |
| drgn {drgn} | With the guest's `vmlinux`: does it list as many tasks as the guest has, and unwind the stack of each? |
| crash {crash} | With the guest's `vmlinux`: does it name the kernel, and trace both CPUs back? |
| makedumpfile {makedumpfile} | Does `-c -d 31` filter it; `-R` unflatten it; `--reassemble` join the parts? |
| gdb {gdb} | Has it the program counter of each CPU; with `--paging`, does it read the kernel's banner? |
| readelf {readelf} | Does it show headers, segments and notes, and complain of nothing? |
| Volatility {Volatility} | Does its layer return the memory in the guest's RAM? |
| kdmp-parser {kdmp-parser} | Does it return the memory of the guest? |

"""
AFTER = """
The reasons, and whose they are:

"""


def cell(judge: str, where: str, said: str) -> str:
    """What the page says of an answer.

    Raises:
        LookupError: It is not right, and no reason is known.
    """
    if not said:
        return "yes"
    for i, reason in enumerate(REASONS, 1):
        if reason["judge"] == judge and re.search(reason["answer"], f"{where}: {said}"):
            return f"no, {i}"
    raise LookupError(f"{judge} on {where}: {said}")


def row(guest: str, form: str, cells: dict[str, str]) -> str:
    """A line of the table."""
    line = f"| {guest} | {form} | {' | '.join(cells.get(judge, '') for judge in JUDGES)} |"
    return re.sub(r"  (?=\|)", " ", line)


def rows(text: str) -> dict[tuple[str, str], dict[str, str]]:
    """The table of the page: a guest and a file, and what each program says to it."""
    found = {}
    for line in text.splitlines():
        if line.count("|") < len(JUDGES):
            continue
        guest, form, *cells = (part.strip() for part in line[1:-1].split("|"))
        if len(cells) == len(JUDGES) and guest in (*(NAMES.get(arch, arch) for arch in ARCHES), MADE_UP):
            found[guest, form] = {judge: cell for judge, cell in zip(JUDGES, cells, strict=True) if cell}
    return found


def wanted() -> Iterator[tuple[str, str]]:
    """Every guest and file that the page has."""
    for arch in ARCHES:
        yield from ((NAMES.get(arch, arch), form) for form in forms(arch))
    yield from ((MADE_UP, form) for form in WINDOWS)


def asked(arch: str, work: Path) -> dict[tuple[str, str], dict[str, str]]:
    """Every file of a guest before every program that claims to read it."""
    lab = Path(os.environ.get("PYDUMP_LAB") or Path.home() / ".cache" / "pydump-lab")
    found = {}
    guest = boot(arch, lab)
    for form in forms(arch):
        file = make(guest, form, work)
        cells = {judge: cell(judge, f"{arch} {form}", ASK[judge](file)) for judge in claims(arch, form)}
        found[NAMES.get(arch, arch), form] = cells
        print(row(NAMES.get(arch, arch), form, cells), file=sys.stderr)
        for part in file.parts:
            if part.parent == work:
                part.unlink()
    return found


def windows(work: Path) -> dict[tuple[str, str], dict[str, str]]:
    """Every Windows crash dump before every program that claims to read it."""
    found = {}
    for form, (bits, _) in WINDOWS.items():
        path, memory = windows_dump(form, work)
        judges = ("Volatility", "kdmp-parser") if bits == 64 else ("Volatility",)
        found[MADE_UP, form] = {judge: cell(judge, form, ask_windows(judge, form, path, memory)) for judge in judges}
        print(row(MADE_UP, form, found[MADE_UP, form]), file=sys.stderr)
    return found


def versions() -> dict[str, str]:
    """The version of each program."""
    modules = {"libkdumpfile": "pykdumpfile", "drgn": "drgn", "Volatility": "volatility3"}
    commands = {"crash": "crash --version", "makedumpfile": "makedumpfile -v", "gdb": f"{MULTIARCH} --version"}
    found = {judge: importlib.metadata.version(modules.get(judge, judge)) for judge in (*modules, "kdmp-parser")}
    for judge, command in {**commands, "readelf": "readelf --version"}.items():
        said = subprocess.run(command.split(), capture_output=True, text=True, check=True).stdout
        version = re.search(r"\d+\.\d+[.\d]*", said)
        assert version, said
        found[judge] = version[0]
    return found


def page(found: dict[tuple[str, str], dict[str, str]]) -> str:
    """The page."""
    lines = [f"| guest | file | {' | '.join(JUDGES)} |", "|---" * (2 + len(JUDGES)) + "|"]
    lines += [row(guest, form, found[guest, form]) for guest, form in wanted()]
    reasons = [textwrap.indent(reason["why"], "   ").replace("  ", f"{i}.", 1) for i, reason in enumerate(REASONS, 1)]
    return HEAD.format(**versions()) + "\n".join(lines) + "\n" + AFTER + "".join(reasons)


def main() -> None:
    """Boot, dump, ask, write."""
    os.environ["PYDUMP_REQUIRE_JUDGES"] = "1"
    found = rows(PAGE.read_text())
    with tempfile.TemporaryDirectory(prefix="pydump-matrix-") as directory:
        for name in sys.argv[1:] or (*ARCHES, MADE_UP):
            found |= windows(Path(directory)) if name == MADE_UP else asked(name, Path(directory))
    PAGE.write_text(page(found))


if __name__ == "__main__":
    main()
