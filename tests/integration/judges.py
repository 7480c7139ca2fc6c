"""Other people's programs, as judges of what pydump writes."""

from __future__ import annotations

import ctypes.util
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

TIMEOUT = 240


def require(available: object, what: str, install: str) -> None:
    """Skip where a judge is missing, saying what to install; fail where judges are required."""
    if available:
        return
    message = f"{what} is not there: {install}"
    if os.environ.get("PYDUMP_REQUIRE_JUDGES") == "1":
        pytest.fail(message)
    pytest.skip(message)


def program(name: str, package: str) -> str:
    """The path of a program, or a skip."""
    path = shutil.which(name)
    require(path, name, f"apt install {package}")
    assert path
    return path


def _python(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a child process: libkdumpfile can die of a signal on a file it does not like."""
    return subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=TIMEOUT)


# -- libkdumpfile

_PAGES = """
import json, sys
import kdumpfile
spec = json.load(open(sys.argv[1]))
c = kdumpfile.Context()
files = [open(path, "rb") for path in spec["files"]]
c.open_fd(files[0].fileno()) if len(files) == 1 else c.open_fdset(*[f.fileno() for f in files])
def attribute(key):
    try:
        return c.attr[key]
    except Exception:
        return None
size = attribute("arch.page_size") or 4096
same, different, missing = 0, [], []
with open(spec["ram"], "rb") as ram:
    for start, end, offset in spec["ranges"]:
        for paddr in range(-(-start // size) * size, end // size * size, size):
            ram.seek(offset + paddr - start)
            want = ram.read(size)
            try:
                got = c.read(kdumpfile.MACHPHYSADDR, paddr, size)
            except Exception as error:
                missing.append(f"{paddr:#x}: {error}")
                continue
            if got == want:
                same += 1
            else:
                different.append(hex(paddr))
maps = open("/proc/self/maps").read()
library = sorted({line.split()[-1] for line in maps.splitlines() if "libkdumpfile" in line})
print(json.dumps({
    "same": same, "different": different[:5], "missing": missing[:5], "arch": attribute("arch.name"),
    "page_size": size, "byte_order": attribute("arch.byte_order"), "cpus": attribute("cpu.number"), "library": library,
    "release": str(attribute("linux.uts.release")), "phys_base": attribute("linux.phys_base"),
}))
"""


@dataclass(frozen=True)
class Pages:
    """What libkdumpfile sees in a file."""

    same: int
    different: list[str]
    missing: list[str]
    arch: str | None
    page_size: int
    byte_order: int | None
    cpus: int | None
    library: list[str]
    release: str
    phys_base: int | None


def kdumpfile_pages(files: list[Path], ram: Path, ranges: list[tuple[int, int, int]], work: Path) -> Pages:
    """Read every page of RAM through libkdumpfile and compare it with the truth."""
    require(_has("kdumpfile"), "pykdumpfile", "tests/integration/lab/fetch-readers .venv")
    spec = work / "pages.json"
    spec.write_text(json.dumps({"files": [str(f) for f in files], "ram": str(ram), "ranges": ranges}))
    done = _python(_PAGES, str(spec))
    assert done.returncode == 0, f"libkdumpfile on {files}: exit code {done.returncode}: {done.stderr[-600:]}"
    return Pages(**json.loads(done.stdout))


# -- drgn

_TASKS = """
import json, sys
import drgn
from drgn.helpers.linux import cpu_curr, for_each_online_cpu, for_each_task, idle_task
prog = drgn.Program()
prog.set_core_dump(sys.argv[1])
prog.load_debug_info([sys.argv[2]])
def stack(task):
    try:
        names = []
        for frame in prog.stack_trace(task):
            names.append(frame.name)
            if frame.name.startswith("0x"):
                break  # the caller is a program, whose memory drgn does not find: what it makes of it differs
        return names
    except (ValueError, NotImplementedError) as error:
        return str(error)
release = prog["init_uts_ns"].name.release.string_().decode()
task_stacks = [stack(task) for task in for_each_task(prog)]
stacks = [stack(cpu_curr(prog, cpu)) for cpu in for_each_online_cpu(prog)]
print(json.dumps({"tasks": len(task_stacks), "stacks": stacks, "release": release, "task_stacks": task_stacks}))
"""


@dataclass(frozen=True)
class Tasks:
    """What drgn sees in a file.

    Attributes:
        tasks: How many tasks, idle ones not included.
        stacks: Of each CPU's task, the functions on its stack, or why there is no stack.
        release: The kernel's.
        task_stacks: The same of each task.
    """

    tasks: int
    stacks: list[list[str] | str]
    release: str
    task_stacks: list[list[str] | str]


def require_drgn() -> None:
    """Skip the test, or fail it where judges must be there, unless drgn is installed."""
    require(_has("drgn"), "drgn", "pip install drgn")


def drgn_tasks(file: Path, vmlinux: Path) -> Tasks | str:
    """Open a dump in drgn: what it sees, or its error."""
    require(_has("drgn"), "drgn", "pip install drgn")
    done = _python(_TASKS, str(file), str(vmlinux))
    if done.returncode:
        return done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit code {done.returncode}"
    return Tasks(**json.loads(done.stdout))


_CLASSES = """
import json, sys
import drgn
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.mm import PageSlab, for_each_valid_page_range, page_to_pfn
from drgn.helpers.linux.mmzone import for_each_online_pgdat
prog = drgn.Program()
prog.set_core_dump(sys.argv[1])
prog.load_debug_info([sys.argv[2]])
def bit(name):
    try:
        return 1 << prog.constant(name).value_()
    except LookupError:
        return 0
names = ("PG_lru", "PG_private", "PG_swapcache", "PG_swapbacked", "PG_hwpoison")
LRU, PRIVATE, SWAPCACHE, SWAPBACKED, POISON = map(bit, names)
def used(page):
    flags, mapping = page.flags.value_(), page.mapping.value_()
    anon = mapping & 1 and not PageSlab(page)
    if (flags & LRU or flags & SWAPCACHE and flags & SWAPBACKED) and not anon:
        return "cache-private" if flags & PRIVATE else "cache"
    return "user" if anon else "hwpoison" if flags & POISON else ""
if sys.argv[3:]:
    mem_map, node = map(int, sys.argv[3:])
    page0 = drgn.Object(prog, "struct page *", value=prog.read_u32(mem_map))
    nodes = [drgn.Object(prog, "struct pglist_data", address=node)]
    ranges = [(0, (nodes[0].node_start_pfn + nodes[0].node_spanned_pages).value_(), page0)]
    def page_to_pfn(page):
        return page - page0
else:
    nodes, ranges = for_each_online_pgdat(prog), for_each_valid_page_range(prog)
found = {}
for start, end, mem_map in ranges:
    of_head = {}
    for pfn in range(start, end):
        page = mem_map + pfn
        try:
            head = page.compound_head.value_()
            if head & 1:
                page = drgn.Object(prog, page.type_, value=head - 1)
            at = page.value_()
            if at not in of_head:
                of_head[at] = used(page)
        except drgn.FaultError:
            continue
        found[pfn] = of_head[at]
for node in nodes:
    for zone in node.node_zones[: node.nr_zones.value_()]:
        for order in range(len(zone.free_area)):
            for heads in zone.free_area[order].free_list:
                for page in list_for_each_entry("struct page", heads.address_of_(), "lru"):
                    first = page_to_pfn(page).value_()
                    found.update(dict.fromkeys(range(first, first + (1 << order)), "free"))
json.dump([[pfn, name] for pfn, name in sorted(found.items()) if name], sys.stdout)
"""


def drgn_pages(file: Path, vmlinux: Path, flat: tuple[int, ...] = ()) -> dict[str, set[int]]:
    """The pfns of each class of pages: free ones by the zones' lists, others by struct page; a tail is as its head.

    Args:
        file: The dump.
        vmlinux: Its kernel.
        flat: Where ``mem_map`` and ``contig_page_data`` of a 32-bit kernel lie, whose memory model drgn does not know.
    """
    require(_has("drgn"), "drgn", "pip install drgn")
    done = _python(_CLASSES, str(file), str(vmlinux), *map(str, flat))
    assert done.returncode == 0, done.stderr[-600:]
    found: dict[str, set[int]] = {}
    for pfn, name in json.loads(done.stdout):
        found.setdefault(name, set()).add(pfn)
    return found


_TASK_STRUCTS = """
import json, sys
import drgn
from drgn.helpers.linux import find_slab_cache, for_each_task, slab_cache_for_each_allocated_object
prog = drgn.Program()
prog.set_core_dump(sys.argv[1])
prog.load_debug_info([sys.argv[2]])
tasks = [task.value_() for task in for_each_task(prog)]
cache = find_slab_cache(prog, "task_struct")
objects = [task.value_() for task in slab_cache_for_each_allocated_object(cache, "struct task_struct")]
json.dump([tasks, objects], sys.stdout)
"""


def drgn_task_structs(file: Path, vmlinux: Path) -> tuple[set[int], set[int]]:
    """Where tasks lie: by the kernel's lists of them, and by the slab cache that they are allocated from."""
    require(_has("drgn"), "drgn", "pip install drgn")
    done = _python(_TASK_STRUCTS, str(file), str(vmlinux))
    assert done.returncode == 0, done.stderr[-600:]
    tasks, objects = json.loads(done.stdout)
    return set(tasks), set(objects)


def _has(module: str) -> bool:
    return _python(f"import {module}").returncode == 0


# -- Volatility


def volatility_banners(file: Path, work: Path) -> list[tuple[int, str]]:
    """Where Volatility finds a Linux kernel's banner in physical memory, and what it says."""
    require(_has("volatility3"), "Volatility", "pip install volatility3")
    options = ["-q", "-r", "json", "--offline", "--cache-path", str(work), "-f", str(file)]
    # It looks for options in the name that it is called by, too.
    script = "import sys; from volatility3.cli import main; sys.argv[0] = 'vol'; main()"
    done = _python(script, *options, "banners.Banners")
    assert done.returncode == 0, f"Volatility on {file}: exit code {done.returncode}: {done.stderr[-600:]}"
    return [(found["Offset"], found["Banner"]) for found in json.loads(done.stdout)]


_LAYER = """
import hashlib, json, sys
from volatility3.framework import contexts
from volatility3.framework.layers import avml, crash, elf, lime, physical, vmware
path, spans, raw = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3] == "raw"
context = contexts.Context()
context.config["base.location"] = "file:" + path
context.add_layer(physical.FileLayer(context, "base", "base"))
stackers = (lime.LimeStacker, avml.AVMLStacker, vmware.VmwareStacker, elf.Elf64Stacker,
            crash.WindowsCrashDumpStacker)
found = [layer for layer in (stacker.stack(context, "base") for stacker in stackers) if layer is not None]
assert len(found) == (not raw), found
layer = context.layers["base"] if raw else found[0]
digests = [hashlib.sha256(layer.read(start, end - start)).hexdigest() for start, end in spans]
print(json.dumps([type(layer).__name__, digests, layer.maximum_address]))
"""


def volatility_memory(file: Path, spans: Sequence[tuple[int, int]], *, raw: bool = False) -> tuple[str, list[str], int]:
    """What Volatility reads a file with, the SHA-256 of memory in each ``(start, end)``, and the highest address.

    Args:
        file: The file.
        spans: What is read.
        raw: The file is memory and nothing else, and Volatility must take it for nothing else.
    """
    require(_has("volatility3"), "Volatility", "pip install volatility3")
    require(ctypes.util.find_library("snappy"), "libsnappy", "apt install libsnappy1v5")
    done = _python(_LAYER, str(file), json.dumps(list(spans)), "raw" if raw else "")
    assert done.returncode == 0, f"Volatility on {file}: exit code {done.returncode}: {done.stderr[-600:]}"
    layer, digests, highest = json.loads(done.stdout)
    return layer, digests, highest


# -- kdmp-parser

#: Prints page tables, runs of memory, a digest of all of it, and the registers in the header.
_KDMP = """
import hashlib, json, sys
import kdmp_parser
dump = kdmp_parser.KernelDumpParser(sys.argv[1])
runs, digest = [], hashlib.sha256()
for page in sorted(dump.pages):
    digest.update(dump.read_physical_page(page))
    if runs and runs[-1][1] == page:
        runs[-1][1] = page + 4096
    else:
        runs.append([page, page + 4096])
names = "Rax Rbx Rcx Rdx Rsi Rdi Rbp Rsp R8 R9 R10 R11 R12 R13 R14 R15 Rip EFlags SegCs SegSs SegDs SegEs SegFs SegGs"
registers = {name.lower(): getattr(dump.context, name) for name in names.split()}
print(json.dumps({"tables": dump.directory_table_base, "runs": runs, "sha256": digest.hexdigest(),
                  "registers": registers, "type": int(dump.type)}))
"""


def kdmp_parser(file: Path) -> dict[str, Any]:
    """What kdmp-parser reads of a Windows crash dump of a 64-bit guest."""
    require(_has("kdmp_parser"), "kdmp-parser", "pip install kdmp-parser")
    done = _python(_KDMP, str(file))
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


# -- binutils, elfutils and gdb


def readelf(file: Path) -> str:
    """What binutils says of an ELF file's headers, segments and notes. It complains of nothing."""
    return _silent([program("readelf", "binutils"), "-hlSnW", str(file)])


def elfutils_notes(file: Path) -> str:
    """What elfutils finds in an ELF file's notes. It complains of nothing."""
    return _silent([program("eu-readelf", "elfutils"), "-n", str(file)])


def gdb(file: Path, *commands: str, by: str = "") -> str:
    """What gdb, or what is given in ``by``, prints, opened on an ELF core alone."""
    arguments = [word for command in commands for word in ("-ex", command)]
    return _silent([by or program("gdb", "gdb"), "-nx", "-batch", *arguments, "-c", str(file)])


def _silent(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT)
    assert done.returncode == 0, f"{command}: exit code {done.returncode}: {done.stderr}"
    assert done.stderr == ""
    return done.stdout


# -- crash and makedumpfile


def newest(lab: Path, name: str) -> tuple[str, ...]:
    """What runs Debian's newest crash or makedumpfile, which are fetched if they are not there."""
    directory = lab / "judges"
    fetch = Path(__file__).parent / "lab/fetch-judges"
    lab.mkdir(parents=True, exist_ok=True)
    with (lab / "judges.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / "run").exists():
            done = subprocess.run([fetch, directory], capture_output=True, text=True, timeout=TIMEOUT)
            require(done.returncode == 0, f"the newest {name}", f"{done.stderr[-200:]}; it needs apt and a network")
    return (str(directory / "run"), name)


def crash(
    file: Path,
    vmlinux: Path,
    work: Path,
    *asked: str,
    by: tuple[str, ...] = (),
    others: Sequence[Path] = (),
    options: Sequence[str] = (),
) -> str:
    """What crash prints for the commands in ``asked``: by default sys, bt -a and log.

    Args:
        file: The dump.
        vmlinux: Its kernel.
        work: A directory.
        asked: Commands.
        by: What runs crash; the system's by default.
        others: The other parts of a split dump.
        options: More options.
    """
    commands = work / "crash-commands"
    commands.write_text("\n".join((*(asked or ("sys", "bt -a", "log")), "quit\n")))
    command = [*(by or (program("crash", "crash"),)), "-s", "-i", str(commands), *options]
    done = subprocess.run(
        [*command, str(vmlinux), *map(str, (file, *others))],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=TIMEOUT,
    )  # fmt: skip
    assert done.returncode == 0, f"crash on {file}: {done.stdout[-600:]}{done.stderr[-600:]}"
    return done.stdout


def makedumpfile(
    *arguments: str | Path, stdin: Path | None = None, by: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run makedumpfile: the system's, or what ``by`` runs."""
    command = [*(by or (program("makedumpfile", "makedumpfile"),)), *map(str, arguments)]
    with open(stdin or os.devnull, "rb") as source:
        return subprocess.run(command, stdin=source, capture_output=True, text=True, errors="replace", timeout=TIMEOUT)
