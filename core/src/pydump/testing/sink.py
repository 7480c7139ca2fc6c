"""What every sink must do.

A plugin's tests subclass :class:`SinkTests` and say what the sink is opened with, and how its output is read::

    class TestBucket(SinkTests):
        sink = BucketSink

        def example(self, tmp_path):
            return "bucket/vmcore"

        def written(self, argument):
            return bucket.get(argument)

Without an example only what the class itself promises is tested.
"""

from __future__ import annotations

from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import ClassVar

import pytest

from pydump.errors import PlanError, SinkError
from pydump.interfaces.sink import Extent, Hole, Sink
from pydump.testing import guests
from pydump.testing.declared import faults_of_claims, faults_of_options
from pydump.testing.forks import positions
from pydump.testing.fresh import native_modules

#: An output in pieces: a gap that nobody writes, a hole, an extent of several MiB, one of wide items and an empty one.
LARGE = guests.text_page(5, 3 << 20)
PIECES: tuple[Extent | Hole, ...] = (
    Extent(0, b"head"),
    Extent(4096, bytearray(guests.random_page(1))),
    Hole(8192, 1 << 20),
    Extent((1 << 20) + 8192, memoryview(LARGE)),
    Extent((1 << 20) + 8192 + len(LARGE), memoryview(guests.random_page(2)).cast("Q")),
    Extent((5 << 20) - 3, b""),
    Extent((5 << 20) - 3, b"end"),
)
#: Its length: zeros follow what was written last.
SIZE = (5 << 20) + 100


class SinkTests:
    """The tests.

    Attributes:
        sink: The class under test.
        whole: Does nothing appear before it is complete? What goes down a pipe is gone.
    """

    sink: ClassVar[type[Sink]]
    whole: ClassVar[bool] = True

    def example(self, tmp_path: Path) -> str | None:
        """What to open: a place where nothing is yet. None where there is no example."""
        return None

    def written(self, argument: str) -> bytes | None:
        """What a reader finds at ``argument``, or None where nothing is; here for sinks whose argument is a path."""
        path = Path(argument)
        return path.read_bytes() if path.exists() else None

    def place(self, tmp_path: Path) -> str:
        """The example."""
        argument = self.example(tmp_path)
        if argument is None:
            pytest.skip("it has no example: a subclass of SinkTests with example() tests more")
        return argument

    def replaceable(self, tmp_path: Path) -> str:
        """The example, with something there."""
        argument = self.place(tmp_path)
        if not self.whole:
            pytest.skip("what it writes is gone at once")
        self.fill(self.sink.open(argument), [Extent(0, b"old")], 3)
        assert self.written(argument) == b"old"
        return argument

    def fill(self, sink: Sink, pieces: Sequence[Extent | Hole], size: int) -> None:
        """Write an output."""
        for piece in pieces:
            sink.write(piece)
        sink.commit(size)

    # --- what it is ---

    def test_it_says_what_it_is(self) -> None:
        name = self.sink.name
        assert name.isidentifier() and name.islower(), f"{name!r} is no name: lower-case letters, digits and _ make one"
        assert (type(self.sink.seekable), type(self.sink.shared)) == (bool, bool), "seekable and shared are yes or no"
        assert faults_of_options(self.sink) == []
        assert faults_of_claims("sink", self.sink) == []

    def test_importing_it_loads_nothing_native(self) -> None:
        assert native_modules(self.sink) == []

    @pytest.mark.parametrize(
        "argument", ["", "/nowhere/at all", "\n", "x" * 5000, "@", "@@@,,,", "0", "-", "a\0b", "\udc80"]
    )
    def test_what_leads_nowhere_is_an_error_of_pydumps(
        self, argument: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        try:
            self.sink.open(argument).abort()
        except (PlanError, SinkError) as error:
            said: str | None = str(error)
        else:
            said = None  # there is no telling what a name may be
        assert said is None or said.strip(), "the error says nothing"
        lines = (said or "").replace(argument or " ", " ").splitlines()
        assert len(lines) <= 1, f"the error is not one line: {said!r}"
        assert [path.name for path in tmp_path.iterdir()] == [], "abort leaves nothing"

    # --- what it writes ---

    @pytest.mark.parametrize("sync", [True, False], ids=["sync", "no sync"])
    def test_what_is_written_is_there(self, sync: bool, tmp_path: Path) -> None:
        argument = self.place(tmp_path)
        self.fill(self.sink.open(argument, self.sink.Options(), sync=sync), PIECES, SIZE)
        self.holds(argument, PIECES, SIZE)

    def test_an_empty_output(self, tmp_path: Path) -> None:
        argument = self.place(tmp_path)
        self.fill(self.sink.open(argument), (), 0)
        self.holds(argument, (), 0)

    def test_holes_alone_are_zeros(self, tmp_path: Path) -> None:
        argument = self.place(tmp_path)
        pieces = (Hole(0, 5000), Hole(6000, 1000))
        self.fill(self.sink.open(argument), pieces, 10000)
        self.holds(argument, pieces, 10000)

    def test_the_order_of_extents(self, tmp_path: Path) -> None:
        """Any, where it is seekable; else what comes too late is an error."""
        argument = self.place(tmp_path)
        sink = self.sink.open(argument)
        if self.sink.seekable:
            self.fill(sink, PIECES[::-1], SIZE)
            self.holds(argument, PIECES, SIZE)
            return
        sink.write(Extent(10, b"later"))
        with pytest.raises(SinkError):
            sink.write(Extent(0, b"sooner"))
        sink.abort()

    def test_a_buffer_may_change_once_it_is_written(self, tmp_path: Path) -> None:
        argument = self.place(tmp_path)
        sink = self.sink.open(argument)
        buffer = bytearray(b"first ")
        sink.write(Extent(0, memoryview(buffer)))
        buffer[:] = b"second"
        sink.write(Extent(6, memoryview(buffer)))
        buffer[:] = bytes(6)
        sink.commit(12)
        self.holds(argument, [Extent(0, b"first second")], 12)

    def test_forked_processes_write_at_once(self, tmp_path: Path) -> None:
        if not self.sink.shared:
            pytest.skip("one process writes to it")
        argument = self.place(tmp_path)
        others = positions()
        sink = self.sink.open(argument)
        before = {fd: at for fd, at in positions().items() if fd not in others}
        pieces = [Extent(n << 16, bytes([n + 1]) * (1 << 16)) for n in range(60)]
        fork = get_context("fork")
        writers = [fork.Process(target=_write, args=(sink, pieces[n::3])) for n in range(3)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join(30)
            if writer.is_alive():
                writer.kill()
                writer.join()
        assert [writer.exitcode for writer in writers] == [0, 0, 0], "a process that writes failed"
        after = positions()
        assert [fd for fd in before if after.get(fd) != before[fd]] == [], (
            "write moves a file position, which they share"
        )
        sink.commit(60 << 16)
        self.holds(argument, pieces, 60 << 16)

    # --- whole or not at all ---

    def test_nothing_appears_before_commit(self, tmp_path: Path) -> None:
        argument = self.place(tmp_path)
        if not self.whole:
            pytest.skip("what it writes is gone at once")
        sink = self.sink.open(argument)
        assert self.written(argument) is None, "opening it made something appear"
        for piece in PIECES:
            sink.write(piece)
        assert self.written(argument) is None, "writing to it made something appear"
        sink.commit(SIZE)
        self.holds(argument, PIECES, SIZE)

    def test_abort_leaves_nothing(self, tmp_path: Path) -> None:
        argument = self.place(tmp_path)
        before = sorted(tmp_path.rglob("*"))
        for pieces in ((), PIECES):
            sink = self.sink.open(argument)
            for piece in pieces:
                sink.write(piece)
            sink.abort()
            sink.abort()  # a run that failed may have aborted it already
            assert not self.whole or self.written(argument) is None, "there is something after abort"
            assert sorted(tmp_path.rglob("*")) == before, "there is something beside it after abort"

    def test_commit_leaves_nothing_beside_it(self, tmp_path: Path) -> None:
        argument = self.place(tmp_path)
        before = set(tmp_path.rglob("*"))
        self.fill(self.sink.open(argument), PIECES, SIZE)
        assert {path for path in set(tmp_path.rglob("*")) - before if path != Path(argument)} == set()

    def test_what_is_there_stays_without_force(self, tmp_path: Path) -> None:
        argument = self.replaceable(tmp_path)
        with pytest.raises(PlanError):
            self.sink.open(argument)
        assert self.written(argument) == b"old"

    def test_force_replaces_at_commit(self, tmp_path: Path) -> None:
        argument = self.replaceable(tmp_path)
        sink = self.sink.open(argument, force=True)
        sink.write(Extent(0, b"new"))
        assert self.written(argument) == b"old", "what is there stays until commit"
        sink.abort()
        assert self.written(argument) == b"old", "what is there stays after abort"
        self.fill(self.sink.open(argument, force=True), [Extent(0, b"newer")], 5)
        assert self.written(argument) == b"newer"

    def test_what_appears_meanwhile_stays_without_force(self, tmp_path: Path) -> None:
        argument = self.place(tmp_path)
        if not self.whole:
            pytest.skip("what it writes is gone at once")
        sink = self.sink.open(argument)
        sink.write(Extent(0, b"new"))
        self.fill(self.sink.open(argument), [Extent(0, b"someone else's")], 14)
        with pytest.raises(SinkError):
            sink.commit(3)
        sink.abort()
        assert self.written(argument) == b"someone else's"

    # --- what the tests are made of ---

    def holds(self, argument: str, pieces: Sequence[Extent | Hole], size: int) -> None:
        """The output is these pieces, and zeros."""
        wanted = bytearray(size)
        for piece in pieces:
            if isinstance(piece, Extent):
                wanted[piece.offset : piece.offset + piece.size] = piece.data
        found = self.written(argument)
        assert found is not None, "there is no output"
        assert len(found) == size
        # Not ==, whose report would take long to make of so many bytes.
        where = next((at for at in range(0, size, 4096) if found[at : at + 4096] != wanted[at : at + 4096]), None)
        assert where is None, f"the output is not what was written, from {where:#x} on"


def _write(sink: Sink, pieces: Sequence[Extent | Hole]) -> None:
    for piece in pieces:
        sink.write(piece)
