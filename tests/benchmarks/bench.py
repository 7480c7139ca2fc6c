"""Times ``pydump dump`` beside makedumpfile, QEMU, ``cp`` and the bare codec, in turn, and prints what came of it.

    python tests/benchmarks/bench.py [--rounds 5] [--json FILE] [--write]

The guest is the ELF dump that PYDUMP_BENCH_ELF names, or an image made of this machine's files. Nobody waits for the
disk: the others do not sync, so pydump is told not to. ``--write`` puts the table into docs/explanation/performance.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import image
import qemu
from codec_calls import CODECS
from codecs_alone import Pages
from measure import DISTURBED, CommandError, Others, await_quiet, peak_memory, seconds

PAGE = Path(__file__).parents[2] / "docs/explanation/performance.md"
BEGIN, END = "<!-- begin of what bench.py writes -->\n", "<!-- end of what bench.py writes -->\n"
#: Who takes longer than this, in seconds, is run once.
SLOW = 20.0
#: A run that others disturb is done again, so many times, each after waiting so many seconds at most for quiet.
ATTEMPTS, WAIT = 6, 10.0
#: Each pydump dump: its options, and the loop over the codec that it is measured against.
DUMPS = {
    "zlib by zlib-ng": ["--compression", "zlib", "--zlib-library", "zlib-ng"],
    "zlib by ISA-L": ["--compression", "zlib", "--zlib-library", "isal"],
    "lzo": ["--compression", "lzo"],
    "snappy": ["--compression", "snappy"],
    "zstd": ["--compression", "zstd"],
    "zlib by ISA-L, level 2": ["--compression", "zlib", "--zlib-library", "isal", "--zlib-level", "2"],
    "none": ["--compression", "none"],
    "none, --dedup": ["--compression", "none", "--dedup"],
    "zlib by ISA-L, --no-dedup": ["--compression", "zlib", "--zlib-library", "isal", "--no-dedup"],
    "elf": ["--format", "elf"],
}
#: Each pydump dump of a Linux guest that leaves pages out, and makedumpfile's option for the same.
FILTERED = {
    "lzo, -d 31": (["--compression", "lzo", "-d", "31"], "-l"),
    "zlib by ISA-L, -d 31": (["--compression", "zlib", "--zlib-library", "isal", "-d", "31"], "-c"),
}


@dataclass
class Contender:
    """One who is timed.

    Attributes:
        name: What the table calls it.
        run: Runs it once and gives the seconds it took.
        output: The file it writes, or None.
        command: What to run for its peak memory, or None.
        took: Seconds of each round.
        disturbed: Rounds in which others used the machine as well, however often it was tried.
        size: Bytes it wrote.
        memory: Peak bytes of its process tree.
        error: Why it is out, or None.
    """

    name: str
    run: Callable[[], float]
    output: Path | None = None
    command: list[str] | None = None
    took: list[float] = field(default_factory=list)
    disturbed: int = 0
    size: int = 0
    memory: int = 0
    error: str | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.took)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=1536, help="MiB of the image made of this machine's files")
    parser.add_argument("--only", default="", help="a regular expression: whom to run")
    parser.add_argument("--directory", type=Path, help="where to write; default: a temporary directory")
    parser.add_argument("--patience", type=int, default=600, help="seconds in all for doing disturbed runs again")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers as JSON as well")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    arguments = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed pydump has its bytecode
    with tempfile.TemporaryDirectory(prefix="pydump-bench-", dir=arguments.directory) as name:
        directory = Path(name)
        elf = os.environ.get("PYDUMP_BENCH_ELF")
        guest = f"the ELF dump {Path(elf).name}" if elf else "an image of this machine's files"
        if not elf:
            elf = str(directory / "guest.elf")
            say(f"making an image of {arguments.size} MiB; set PYDUMP_BENCH_ELF to take a dump of a guest")
            image.make_elf(Path(elf), arguments.size << 20)
        contenders = [c for c in field_of(elf, directory) if re.search(arguments.only, c.name)]
        compete(contenders, arguments.rounds, arguments.patience)
    table = "\n".join(rows(contenders))
    heading = f"{guest}, {os.path.getsize(elf) / 2**20 if os.path.exists(elf) else arguments.size:.0f} MiB"
    about = f"{datetime.now(UTC):%Y-%m-%d}, {machine()}, {heading}, medians of {arguments.rounds}."
    print(f"{about}\n\n{table}")
    if arguments.json:
        results = [as_json(c) for c in contenders]
        arguments.json.write_text(json.dumps({"about": about, "results": results}, indent=2) + "\n")
    if arguments.write:
        written(BEGIN, END, f"{about}\n\n{table}")


def written(begin: str, end: str, text: str) -> None:
    """Put ``text`` between two marks of the page on performance."""
    before, _, rest = PAGE.read_text().partition(begin)
    PAGE.write_text(f"{before}{begin}\n{text}\n\n{end}{rest.partition(end)[2]}")


def field_of(elf: str, directory: Path) -> Iterator[Contender]:
    """All who can take part here."""
    pages = Pages(elf)
    pydump = [sys.executable, "-m", "pydump", "dump", "--quiet", "--no-sync"]

    def command(name: str, words: list[str], output: Path) -> Contender:
        return Contender(name, lambda: seconds(words), output, words)

    for name, options in DUMPS.items():
        output = directory / re.sub(r"\W", "-", name)
        yield command(f"pydump {name}", [*pydump, *options, elf, str(output)], output)
    linux = is_linux(elf)
    if not linux:
        say("without -d 31: the dump has no VMCOREINFO; set PYDUMP_BENCH_ELF to that of a Linux guest")
    for name, (options, _) in FILTERED.items() if linux else ():
        output = directory / re.sub(r"\W", "-", name)
        yield command(f"pydump {name}", [*pydump, *options, elf, str(output)], output)
    for codec in CODECS:
        yield Contender(f"loop {codec}", lambda codec=codec: pages.seconds(codec))  # type: ignore[misc]
    bare = [sys.executable, str(Path(__file__).with_name("bare_process.py"))]
    for codec in CODECS:
        words = [*bare, codec, elf, *ranges_of(elf)]
        yield Contender(f"process {codec}", lambda words=words: seconds(words))  # type: ignore[misc]
    copy = directory / "copy"
    yield command("cp", ["cp", elf, str(copy)], copy)
    if shutil.which("makedumpfile"):
        # It does not read the layout of QEMU's ELF dumps; it reads ours.
        plain = directory / "plain.elf"
        seconds([*pydump, "--format", "elf", "--ram-only", elf, str(plain)] if linux else
                [*pydump, "--format", "elf", elf, str(plain)])  # fmt: skip
        for _, option in FILTERED.values() if linux else ():
            output = directory / f"makedumpfile{option}-d31"
            words = ["makedumpfile", option, "-d", "31", "--message-level", "0", str(plain), str(output)]
            yield command(f"makedumpfile {option} -d 31", words, output)
        for option in ("-c", "-l"):
            for threads in (1, 2):
                output = directory / f"makedumpfile{option}{threads}"
                words = ["makedumpfile", option, "-d", "1", "--message-level", "0"]
                words += ["--num-threads", str(threads)] if threads > 1 else []
                yield command(f"makedumpfile {option}, {threads} thread{'s' * (threads > 1)}",
                              [*words, str(plain), str(output)], output)  # fmt: skip
    else:
        say("without makedumpfile: it is not installed")
    why = qemu.usable(elf)
    if why is None:
        ram, output = directory / "ram", directory / "qemu"
        qemu.write_ram(elf, ram)
        yield Contender("QEMU kdump-zlib", lambda: qemu.seconds(ram, output), output)
    else:
        say(f"without QEMU: {why}")


def is_linux(elf: str) -> bool:
    """Whether the dump has what filters need."""
    import pydump

    if not os.path.exists(elf):
        return False
    with pydump.open(elf) as vmcore:
        return vmcore.vmcoreinfo is not None


def ranges_of(elf: str) -> list[str]:
    """Where in the file the guest's memory lies, as ``OFFSET:SIZE``."""
    from elftools.elf.elffile import ELFFile

    with open(elf, "rb") as file:
        loads = [segment.header for segment in ELFFile(file).iter_segments("PT_LOAD")]
    return [f"{load.p_offset}:{load.p_filesz}" for load in loads]


def compete(contenders: list[Contender], rounds: int, patience: float) -> None:
    """One round to warm up, in which memory is measured, then the rounds that count, everyone once in each."""
    impatient = time.monotonic() + patience
    for number in range(rounds + 1):
        for contender in contenders:
            if contender.error or max(contender.took, default=0) > SLOW:
                continue
            say(f"round {number} of {rounds}: {contender.name}")
            try:
                if number:
                    undisturbed(contender, impatient)
                elif contender.command and contender.name.startswith("pydump"):
                    contender.memory = peak_memory(contender.command)
            except CommandError as error:
                contender.error = str(error)
            clear(contender)


def undisturbed(contender: Contender, impatient: float) -> None:
    """Time a run in which nobody else used the machine, if there is one to be had; else the least disturbed."""
    best = (1.0, 0.0)
    for attempt in range(ATTEMPTS):
        os.sync()  # else what the one before wrote or removed is done while this one runs
        await_quiet(min(WAIT, impatient - time.monotonic()))
        others = Others()
        took = contender.run()
        best = min(best, (others.share(), took)) if attempt else (others.share(), took)
        clear(contender)
        if best[0] < DISTURBED or took > SLOW or time.monotonic() > impatient:
            break
    contender.took.append(best[1])
    contender.disturbed += best[0] >= DISTURBED


def clear(contender: Contender) -> None:
    """Note the size of the output, and remove it."""
    if contender.output and contender.output.exists():
        contender.size = contender.output.stat().st_size
        contender.output.unlink()


def rows(contenders: list[Contender]) -> Iterator[str]:
    """The table, in Markdown."""
    times = {c.name: c.median for c in contenders if c.took}
    yield "| who | seconds | least to most | of the bare codec | of a bare process | output, MB | peak memory, MiB |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for c in contenders:
        if c.error:
            yield f"| {c.name} | failed: {c.error} | | | | | |"
            continue
        limits = ("cp", "cp") if c.name == "pydump elf" else (c.name.replace("pydump", w) for w in ("loop", "process"))
        of_codec, of_process = (
            f"{times[limit] / c.median:.0%}" if limit in times and c.name.startswith("pydump") else ""
            for limit in limits
        )
        size = f"{c.size / 1e6:,.1f}" if c.size else ""
        memory = f"{c.memory / 2**20:.0f}" if c.memory else ""
        spread = f"{min(c.took):.2f} to {max(c.took):.2f}" if len(c.took) > 1 else "run once"
        spread += f"; {c.disturbed} disturbed" if c.disturbed else ""
        yield f"| {c.name} | {c.median:.2f} | {spread} | {of_codec} | {of_process} | {size} | {memory} |"
    others = [c for c in contenders if c.took and c.name.startswith(("makedumpfile", "QEMU"))]
    if others:
        yield ""
        yield "How many times as long the others take:"
        yield ""
        yield "| | " + " | ".join(c.name for c in others) + " |"
        yield "| --- |" + " ---: |" * len(others)
        for c in contenders:
            if c.took and c.name.startswith("pydump"):
                yield f"| {c.name} | " + " | ".join(f"{o.median / c.median:.1f}" for o in others) + " |"


def as_json(contender: Contender) -> dict[str, object]:
    return {
        "name": contender.name,
        "seconds": contender.took,
        "disturbed": contender.disturbed,
        "median": contender.median if contender.took else None,
        "size": contender.size or None,
        "peak_memory": contender.memory or None,
        "error": contender.error,
    }


def machine() -> str:
    """This machine, in a few words."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    return (
        f"{len(os.sched_getaffinity(0))} CPUs ({model}), Linux {platform.release()}, Python {platform.python_version()}"
    )


def say(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    main()
