"""Waits for an event of a guest and then captures it, once or each time."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pydump.cli import children
from pydump.cli.console import afterwards, talk, tell, warn
from pydump.cli.declared import asked
from pydump.cli.ending import EXIT_INCOMPLETE
from pydump.cli.fallback import simpler
from pydump.cli.plugin_options import given
from pydump.cli.program import command_named
from pydump.engine.planner import choose
from pydump.errors import PlanError, PydumpError, SourceError
from pydump.interfaces.watch import Watch, Watches
from pydump.model.request import Request
from pydump.registry import installed

#: Seconds between two looks at a guest, and between two attempts to reach one.
INTERVAL: Final = 0.5
#: Options of ``dump`` that do not go with it.
NOT_HERE: Final = ("--detach", "--dry-run", "--split", "--force", "--resume")
#: Exit codes of ``dump`` with which there is a dump.
WRITTEN: Final = (0, EXIT_INCOMPLETE)
#: What dumps are called: the event, the time in UTC, this.
SUFFIX: Final = ".vmcore"


@dataclass(frozen=True, slots=True)
class Watched:
    """What is watched, and what becomes of it.

    Attributes:
        source: The guest, as on the command line.
        event: What is waited for.
        directory: Where dumps are written.
        options: More words of the command line of ``dump``.
        keep: How many dumps of such events the directory keeps, or None for all.
        patience: Seconds to wait for a guest that is not there.
    """

    source: str
    event: str
    directory: Path
    options: tuple[str, ...] = ()
    keep: int | None = None
    patience: float = 0

    def connect(self, *, known: bool = False) -> Watch:
        """A connection to the guest.

        Raises:
            PlanError: It is not a source that hears of this event.
            SourceError: There is no guest.
        """
        registry = installed()
        name, _, argument = self.source.partition(":")
        source = registry.source(name) if name in registry.names("source") else None
        if not isinstance(source, Watches):
            raise PlanError(
                f"{self.source} is not a guest that says what happens to it",
                hint="name one: qmp:SOCKET, libvirt:DOMAIN",
            )
        if self.event not in source.events:
            raise PlanError(f"unknown event {self.event!r}; available: {', '.join(source.events)}")
        deadline = time.monotonic() + self.patience
        while True:
            try:
                return source.watch(argument, self.event, known=known)
            except SourceError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(INTERVAL)

    def check(self) -> int:
        """Find what speaks against a dump now, not when it is needed; returns the exit code of ``dump --dry-run``.

        Raises:
            PydumpError: The directory or an option is wrong.
            TyperException: An option is unknown, or has a wrong value.
        """
        if wrong := next((word for word in self.options if word.partition("=")[0] in NOT_HERE), None):
            raise PlanError(f"{wrong} does not go with watch")
        self._check_options()
        # It is made last; until then the directory in which it will be stands for it.
        there = next(path for path in (self.directory, *self.directory.absolute().parents) if path.exists())
        if not there.is_dir():
            raise PlanError(f"{there} is not a directory", hint="name a directory for the dumps")
        with self.connect() as guest:  # wait for one that is not there yet
            warn(guest.warnings)
        output = there / self._output().name
        code, said = _run("dump", "--dry-run", "--quiet", *self.options, "--", self.source, str(output))
        if code:
            _print(said)
        else:
            try:
                self.directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise PydumpError(f"cannot make {self.directory}: {error.strerror}") from None
        return code

    def _check_options(self) -> None:
        """Look at the options of ``dump`` before a guest is there."""
        if self.options and not self.options[0].startswith("-"):
            raise PlanError(
                f"{self.options[0]} is not an option of dump",
                hint="watch names the dumps; only options follow DIR and --",
            )
        words = [*self.options, "--", self.source, str(self._output())]
        made: Any = command_named("dump").make_context("pydump dump", words)
        with made as context:
            choose(Request(**asked(context), options=given(context)), installed())

    def dump(self) -> int:
        """Capture the guest; returns the exit code of ``dump``. Older dumps go once there is a new one.

        Where the dump as asked cannot be had, it is written without the options that may stand in the way: the guest
        will not panic again for it. It is incomplete then.
        """
        options, warning = self.options, ""
        missing: tuple[str, ...] = ()
        code, said = self._dump(options)
        while (simplified := simpler(options, code))[1]:
            options, missing = simplified[0], (*missing, *simplified[1])
            warning = f"the dump as asked cannot be had: it is written without {shlex.join(missing)}"
            tell(f"pydump: warning: {warning}")  # even with --quiet: it says why the dump is not complete
            code, said = self._dump(options)
        written = code in WRITTEN
        if written and warning:
            code, said = EXIT_INCOMPLETE, _with_warning(said, warning)
        _print(said)
        if written and self.keep is not None:
            dumps = sorted(self.directory.glob(f"{self.event}-*{SUFFIX}"), key=lambda path: path.stat().st_mtime_ns)
            for old in dumps[: -self.keep]:
                for path in (old, *self.directory.glob(f"{old.name}.*")):  # and the file with its hash
                    path.unlink(missing_ok=True)
        return code

    def _dump(self, options: Sequence[str]) -> tuple[int, str]:
        return _run("dump", *options, "--", self.source, str(self._output()))

    def _output(self) -> Path:
        now = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        names = (f"{self.event}-{now}{more}{SUFFIX}" for more in ("", *(f".{i}" for i in range(1, 1 << 16))))
        return next(path for name in names if not (path := self.directory / name).exists())


def watch_for(watched: Watched, *, go_on: bool) -> int:
    """Wait for the event and capture the guest.

    Args:
        watched: What is watched.
        go_on: Whether to wait for the next event then, until the guest ends.

    Returns:
        The exit code: that of ``dump``, of several the worst.

    Raises:
        PydumpError: The guest ended before anything happened.
    """
    code = watched.check()
    if code:
        return code
    codes: list[int] = []
    while True:
        try:
            with watched.connect(known=bool(codes)) as one:
                talk(f"watching {watched.source} for {watched.event}")
                while not one.wait(INTERVAL):
                    pass
        except SourceError as error:
            if not codes:
                raise SourceError(f"the guest ended before it {watched.event}: {error.message}") from None
            talk(f"the guest ended after {len(codes)} captures: {error.message}")
            return worst(codes)
        talk(f"the guest {watched.event}")
        codes.append(watched.dump())
        if codes[-1] not in WRITTEN and not _there(watched):
            raise SourceError("QEMU ended before the guest could be captured", hint="start it with -action panic=pause")
        if not go_on:
            return codes[0]


def worst(codes: Sequence[int]) -> int:
    """The exit code of several dumps: a failure, else one that is incomplete."""
    return next((code for code in codes if code not in WRITTEN), max(codes))


def _there(watched: Watched) -> bool:
    try:
        with watched.connect(known=True):
            return True
    except SourceError:
        return False


def _run(*words: str) -> tuple[int, str]:
    """Run a command of pydump's; returns its exit code and with ``--json`` what it says on standard output."""
    with tempfile.TemporaryFile() if "--json" in words else contextlib.nullcontext() as out:
        process = children.start(words, out)
        try:
            code = process.wait()
        finally:
            if process.returncode is None:
                children.end([process])
        if out is None:
            return code, ""
        out.seek(0)
        return code, out.read().decode()


def _with_warning(said: str, warning: str) -> str:
    """A report as JSON with one more warning in it; nothing where there is none."""
    if not said:
        return said
    report = json.loads(said)
    return json.dumps(report | {"warnings": [*report["warnings"], warning]}, indent=2) + "\n"


def _print(said: str) -> None:
    """Print what a command said with ``--json``."""
    with afterwards():
        sys.stdout.write(said)
