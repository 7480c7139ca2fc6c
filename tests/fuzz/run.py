"""Fuzzes one reader: ``python tests/fuzz/run.py HARNESS [SECONDS] [--keep]``, with atheris (dependency group "fuzz").

A harness is a module beside this one with a function ``one(data: bytes) -> None``, which hands its input to a reader.
Its kept inputs are the files of ``corpus/HARNESS``, at most 200 KiB in all. With 0 seconds they are read again, without
atheris; ``test_corpus.py`` does that in every test run. ``--keep`` adds inputs that reach new code, smallest first, as
long as there is room.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pydump.errors import PydumpError

HERE = Path(__file__).parent
#: CPU seconds that one input may take.
MAX_SECONDS = 2.0
#: Bytes of memory that the reading of one input may take. Code that atheris 3.0 instruments leaks some KiB of its own.
MAX_MEMORY = 500 << 20
#: Bytes of a harness's kept inputs.
MAX_CORPUS = 200 << 10
#: Seconds after which an input that does not end is given up.
HANG = 20


class LimitError(Exception):
    """An input took too long or too much memory."""


def checked(one: Callable[[bytes], None], data: bytes) -> None:
    """Read one input.

    Raises:
        Exception: Anything but a PydumpError that the reader raised.
        LimitError: It took too long or too much memory.
    """
    before = memory_from_now()
    started = time.process_time()
    with contextlib.suppress(PydumpError):
        one(data)
    seconds = time.process_time() - started
    if seconds > MAX_SECONDS:
        raise LimitError(f"{seconds:.1f} s of CPU time for {len(data)} bytes")
    memory = in_status(b"VmHWM:") - before
    if memory > MAX_MEMORY:
        raise LimitError(f"{memory >> 20} MiB of memory for {len(data)} bytes")


def memory_from_now() -> int:
    """Count the most memory that this process has anew; how much it has now, in bytes. Source: Linux, proc(5)."""
    Path("/proc/self/clear_refs").write_text("5")
    return in_status(b"VmRSS:")


def in_status(field: bytes) -> int:
    """A field of this process's status, in bytes. What getrusage says includes what ran before exec."""
    with open("/proc/self/status", "rb") as lines:
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field))


def inputs(name: str) -> list[Path]:
    """The kept inputs of a harness."""
    return sorted(path for path in (HERE / "corpus" / name).glob("*") if path.is_file())


def fuzz(name: str, arguments: list[str]) -> None:
    """Run libFuzzer, which ends this process."""
    import atheris

    packages = ["pydump", *(path.name for path in HERE.parents[1].glob("plugins/*/src/pydump_*"))]
    with atheris.instrument_imports(include=packages):  # some modules are imported when they are first needed
        one = importlib.import_module(name).one
        atheris.Setup(arguments, lambda data: checked(one, data))
        atheris.Fuzz()


def keep(found: list[Path], corpus: Path) -> None:
    """Add new inputs to the kept ones."""
    corpus.mkdir(parents=True, exist_ok=True)
    room = MAX_CORPUS - sum(path.stat().st_size for path in corpus.iterdir())
    for path in sorted(found, key=lambda path: path.stat().st_size):
        data = path.read_bytes()
        room -= len(data)
        if room < 0:
            break
        (corpus / hashlib.sha1(data).hexdigest()[:16]).write_bytes(data)


def main() -> int:
    """Fuzz in a process of its own; the exit code is libFuzzer's, 0 when nothing was found."""
    parser = argparse.ArgumentParser(description="Fuzz one reader.")
    parser.add_argument("harness", choices=sorted(path.name for path in (HERE / "corpus").iterdir()))
    parser.add_argument("seconds", type=int, nargs="?", default=20)
    parser.add_argument("--keep", action="store_true", help="add inputs that reach new code to the corpus")
    options = parser.parse_args()
    if options.seconds == 0:
        sys.path.insert(0, str(HERE))
        one = importlib.import_module(options.harness).one
        for path in inputs(options.harness):
            try:
                checked(one, path.read_bytes())
            except Exception as error:
                error.add_note(f"while reading {path}")
                raise
        return 0
    scratch = Path(tempfile.mkdtemp(prefix="pydump-fuzz-"))
    new, corpus, found = scratch / "new", HERE / "corpus" / options.harness, scratch / "found"
    new.mkdir()
    found.mkdir()
    # A program of its own, because libFuzzer starts itself again to merge.
    program = scratch / "fuzz"
    script = f"import sys; sys.path.insert(0, {str(HERE)!r}); import run; run.fuzz({options.harness!r}, sys.argv[1:])"
    command = f'exec {shlex.quote(sys.executable)} -c {shlex.quote(script)} "$0" "$@"'
    program.write_text(f"#!/bin/sh\n{command}\n")
    program.chmod(0o700)

    def libfuzzer(*arguments: str) -> int:
        limits = [f"-timeout={HANG}", "-rss_limit_mb=0", f"-artifact_prefix={scratch}/"]
        return subprocess.run([program, *limits, "-verbosity=0", *arguments], check=False).returncode

    code = libfuzzer(f"-max_total_time={options.seconds}", str(new), str(corpus))
    if code == 0 and options.keep:
        code = libfuzzer("-merge=1", str(found), str(corpus), str(new))
        keep(
            [path for path in found.iterdir() if path.name not in {old.name for old in inputs(options.harness)}], corpus
        )
    if code == 0:
        shutil.rmtree(scratch)
    else:
        print(f"{options.harness}: the input is in {scratch}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
