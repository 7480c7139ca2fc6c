"""What every storage must do.

A plugin's tests subclass :class:`StorageTests` and say at which URL something can be kept::

    class TestBucket(StorageTests):
        storage = BucketStorage

        def example(self, tmp_path):
            return "bucket://there/vmcore"

A storage that cannot be both read and written says with ``written`` how its output is read, or with ``kept`` how
something gets there. Without an example only what the class itself promises is tested.
"""

# Long: a plugin's tests subclass one class, in which each promise is a test.

from __future__ import annotations

import pickle
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pydump.errors import FormatError, PlanError, SinkError, SourceError
from pydump.interfaces.backing import Backing, recipe_of
from pydump.interfaces.sink import Extent, Hole, Sink
from pydump.interfaces.storage import Storage
from pydump.options import with_values
from pydump.testing import guests
from pydump.testing.declared import faults_of_claims, faults_of_options
from pydump.testing.forks import faults_in_forks, positions
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


# Long: a plugin's tests subclass one class, in which each promise is a test.
class StorageTests:
    """The tests.

    Attributes:
        storage: The class under test.
        options: Values for its options, where they are not the defaults.
        whole: Does nothing appear before it is complete? What goes down a pipe is gone.
    """

    storage: ClassVar[type[Storage]]
    options: ClassVar[dict[str, Any]] = {}
    whole: ClassVar[bool] = True

    def example(self, tmp_path: Path) -> str | None:
        """A URL at which nothing is yet. None where there is no example."""
        return None

    def written(self, url: str) -> bytes | None:
        """What another reader finds at ``url``, or None where nothing is; here what the storage itself reads."""
        try:
            with self.opened(url) as backing:
                return backing.read(0, backing.size)
        except SourceError:
            return None

    def kept(self, tmp_path: Path, data: bytes) -> str:
        """Have ``data`` where the storage can read it, and give the URL; here the storage itself writes it."""
        url = self.place(tmp_path)
        if not self.storage.writes():
            pytest.skip("it only reads: a subclass of StorageTests with kept() tests more")
        self.fill(self.create(url), [Extent(0, data)], len(data))
        return url

    def place(self, tmp_path: Path) -> str:
        """The example."""
        url = self.example(tmp_path)
        if url is None:
            pytest.skip("it has no example: a subclass of StorageTests with example() tests more")
        return url

    def writable(self, tmp_path: Path) -> str:
        """The example, of a storage that writes."""
        if not self.storage.writes():
            pytest.skip("it only reads")
        return self.place(tmp_path)

    def create(self, url: str, *, force: bool = False, sync: bool = True) -> Sink:
        """``url``, open for writing."""
        return self.storage.writer(url, self._options(), force=force, sync=sync)

    def opened(self, url: str) -> Backing:
        """``url``, open for reading."""
        return self.storage.reader(url, self._options())

    def _options(self) -> Any:
        return with_values(self.storage.name, self.storage.Options(), self.options)

    def replaceable(self, tmp_path: Path) -> str:
        """The example, with something there."""
        url = self.writable(tmp_path)
        if not self.whole:
            pytest.skip("what it writes is gone at once")
        self.fill(self.create(url), [Extent(0, b"old")], 3)
        assert self.written(url) == b"old"
        return url

    def fill(self, sink: Sink, pieces: Sequence[Extent | Hole], size: int) -> None:
        """Write an output."""
        for piece in pieces:
            sink.write(piece)
        sink.commit(size)

    # --- what it is ---

    def test_it_says_what_it_is(self) -> None:
        name = self.storage.name
        assert name.isidentifier() and name.islower(), (
            f"{name!r} is not a valid name: use lower-case letters, digits and _"
        )
        assert self.storage.reads() or self.storage.writes(), "it has neither reader nor writer"
        assert faults_of_options(self.storage) == []
        assert faults_of_claims("storage", self.storage) == []

    def test_importing_it_loads_nothing_native(self) -> None:
        assert native_modules(self.storage) == []

    @pytest.mark.parametrize(
        "rest", ["", "/nowhere/at all", "\n", "x" * 5000, "@", "@@@,,,", "0", "-", "a\0b", "\udc80"]
    )
    def test_an_invalid_url_is_an_error_in_one_line(
        self, rest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        url = f"{self.storage.name}:{rest}"
        for use in (self._read_none, self._write_none):
            try:
                use(url)
            except (PlanError, SourceError, SinkError) as error:
                said = str(error)
            else:
                continue  # there is no telling what a name may be
            assert said.strip(), "the error says nothing"
            # What the user wrote may be repeated as it is.
            assert len(said.replace(rest or " ", " ").splitlines()) == 1, f"the error is not one line: {said!r}"
        assert [path.name for path in tmp_path.iterdir()] == [], "abort leaves nothing"

    def _read_none(self, url: str) -> None:
        self.opened(url).close()

    def _write_none(self, url: str) -> None:
        self.create(url).abort()

    # --- what it reads ---

    def readable(self, tmp_path: Path) -> tuple[str, bytes]:
        """A URL with something behind it, and what that is."""
        if not self.storage.reads():
            pytest.skip("it only writes")
        self.place(tmp_path)
        data = guests.random_page(3) * 50 + bytes(1 << 20) + LARGE
        return self.kept(tmp_path, data), data

    def test_what_is_kept_is_read(self, tmp_path: Path) -> None:
        url, data = self.readable(tmp_path)
        with self.opened(url) as backing:
            assert backing.size == len(data)
            assert backing.path, "messages name it"
            for at, size in ((0, 4096), (1, 3), (199_999, 1 << 21), (len(data) - 5, 5), (len(data), 0), (7, 0)):
                assert backing.read(at, size) == data[at : at + size], f"{size} bytes at {at}"
            at = 0
            for start, end in backing.data_ranges(0, len(data)):
                assert at <= start < end <= len(data)
                assert not any(data[at:start]), "data_ranges leaves out what is not zero"
                at = end
            assert not any(data[at:]), "data_ranges leaves out what is not zero"

    def test_reading_past_the_end_is_an_error(self, tmp_path: Path) -> None:
        url, data = self.readable(tmp_path)
        with self.opened(url) as backing:
            for at, size in ((len(data) - 1, 2), (len(data), 1), (1 << 62, 1 << 40), (-1, 1)):
                with pytest.raises(FormatError):
                    backing.read(at, size)

    def test_what_is_not_there_is_an_error(self, tmp_path: Path) -> None:
        url = self.place(tmp_path)
        if not self.storage.reads() or not self.whole:
            pytest.skip("it only writes, or is always there")
        with pytest.raises(SourceError):
            self.opened(url).close()

    def test_forked_processes_read_at_once(self, tmp_path: Path) -> None:
        """Connections and file positions are not shared: a process that was forked opens its own."""
        url, data = self.readable(tmp_path)
        assert faults_in_forks(lambda: self.opened(url), {0: data}) == []

    def test_another_process_reopens_it(self, tmp_path: Path) -> None:
        """What is pickled says how it is opened, and nothing of what is open."""
        url, data = self.readable(tmp_path)
        if not self.whole:
            pytest.skip("no other process can open it")
        with self.opened(url) as backing:
            backing.read(0, 1)
            recipe = recipe_of(backing)
        if recipe is None:
            pytest.skip("no other process can open it")
        assert len(recipe) < 1 << 16, "the pickle holds data"
        with pickle.loads(recipe) as again:
            assert (again.path, again.size) == (backing.path, len(data))
            assert again.read(5, 5000) == data[5:5005]

    # --- what it writes ---

    @pytest.mark.parametrize("sync", [True, False], ids=["sync", "no sync"])
    def test_what_is_written_is_there(self, sync: bool, tmp_path: Path) -> None:
        url = self.writable(tmp_path)
        self.fill(self.create(url, sync=sync), PIECES, SIZE)
        self.holds(url, PIECES, SIZE)

    def test_an_empty_output(self, tmp_path: Path) -> None:
        url = self.writable(tmp_path)
        self.fill(self.create(url), (), 0)
        self.holds(url, (), 0)

    def test_holes_alone_are_zeros(self, tmp_path: Path) -> None:
        url = self.writable(tmp_path)
        pieces = (Hole(0, 5000), Hole(6000, 1000))
        self.fill(self.create(url), pieces, 10000)
        self.holds(url, pieces, 10000)

    def test_the_order_of_extents(self, tmp_path: Path) -> None:
        """Any, unless they must ascend: then what comes too late is an error."""
        url = self.writable(tmp_path)
        sink = self.create(url)
        if sink.placement != "ascending":
            self.fill(sink, PIECES[::-1], SIZE)
            self.holds(url, PIECES, SIZE)
            return
        sink.write(Extent(10, b"later"))
        with pytest.raises(SinkError):
            sink.write(Extent(0, b"sooner"))
        sink.abort()

    def test_a_buffer_may_change_once_it_is_written(self, tmp_path: Path) -> None:
        url = self.writable(tmp_path)
        sink = self.create(url)
        buffer = bytearray(b"first ")
        sink.write(Extent(0, memoryview(buffer)))
        buffer[:] = b"second"
        sink.write(Extent(6, memoryview(buffer)))
        buffer[:] = bytes(6)
        sink.commit(12)
        self.holds(url, [Extent(0, b"first second")], 12)

    def test_forked_processes_write_at_once(self, tmp_path: Path) -> None:
        url = self.writable(tmp_path)
        others = positions()
        sink = self.create(url)
        if not sink.shared:
            sink.abort()
            pytest.skip("one process writes to it")
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
        self.holds(url, pieces, 60 << 16)

    def test_headers_may_be_written_again(self, tmp_path: Path) -> None:
        url = self.writable(tmp_path)
        sink = self.create(url)
        if sink.placement == "ascending":
            sink.abort()
            pytest.skip("it cannot go back")
        again = Extent(2, b"!")
        self.fill(sink, [*PIECES, again], SIZE)
        self.holds(url, [*PIECES, again], SIZE)

    def test_a_hole_over_earlier_bytes_is_zeros(self, tmp_path: Path) -> None:
        url = self.writable(tmp_path)
        sink = self.create(url)
        if sink.placement != "anywhere":
            sink.abort()
            pytest.skip("each byte is written once")
        over = (Hole(100, 1000), Hole(len(LARGE) - 10, 1 << 20), Hole(2 << 20, 0), Extent(200, b"again"), Hole(203, 1))
        pieces = (Extent(0, LARGE), *over)
        self.fill(sink, pieces, 4 << 20)
        self.holds(url, pieces, 4 << 20)

    def test_what_it_can_do_is_declared(self, tmp_path: Path) -> None:
        url = self.writable(tmp_path)
        placement = self.storage.check(url, self._options())
        sink = self.create(url)
        sink.abort()
        assert placement == sink.placement
        assert placement in ("anywhere", "parts", "ascending")
        assert type(sink.shared) is bool
        assert not self.whole or self.written(url) is None, "check leaves something"

    # --- whole or not at all ---

    def test_nothing_appears_before_commit(self, tmp_path: Path) -> None:
        url = self.writable(tmp_path)
        if not self.whole:
            pytest.skip("what it writes is gone at once")
        sink = self.create(url)
        assert self.written(url) is None, "opening it made something appear"
        for piece in PIECES:
            sink.write(piece)
        assert self.written(url) is None, "writing to it made something appear"
        sink.commit(SIZE)
        self.holds(url, PIECES, SIZE)

    def test_abort_leaves_nothing(self, tmp_path: Path) -> None:
        url = self.writable(tmp_path)
        before = sorted(tmp_path.rglob("*"))
        for pieces in ((), PIECES):
            sink = self.create(url)
            for piece in pieces:
                sink.write(piece)
            sink.abort()
            sink.abort()  # a run that failed may have aborted it already
            assert not self.whole or self.written(url) is None, "there is something after abort"
            assert sorted(tmp_path.rglob("*")) == before, "there is something beside it after abort"

    def test_commit_leaves_nothing_beside_it(self, tmp_path: Path) -> None:
        url = self.writable(tmp_path)
        before = set(tmp_path.rglob("*"))
        self.fill(self.create(url), PIECES, SIZE)
        assert {path for path in set(tmp_path.rglob("*")) - before if not url.endswith(str(path))} == set()

    def test_what_is_there_stays_without_force(self, tmp_path: Path) -> None:
        url = self.replaceable(tmp_path)
        with pytest.raises(PlanError):
            self.create(url)
        assert self.written(url) == b"old"

    def test_force_replaces_at_commit(self, tmp_path: Path) -> None:
        url = self.replaceable(tmp_path)
        sink = self.create(url, force=True)
        sink.write(Extent(0, b"new"))
        assert self.written(url) == b"old", "what is there stays until commit"
        sink.abort()
        assert self.written(url) == b"old", "what is there stays after abort"
        self.fill(self.create(url, force=True), [Extent(0, b"newer")], 5)
        assert self.written(url) == b"newer"

    def test_what_appears_meanwhile_stays_without_force(self, tmp_path: Path) -> None:
        url = self.writable(tmp_path)
        if not self.whole:
            pytest.skip("what it writes is gone at once")
        sink = self.create(url)
        sink.write(Extent(0, b"new"))
        self.fill(self.create(url), [Extent(0, b"someone else's")], 14)
        with pytest.raises(SinkError):
            sink.commit(3)
        sink.abort()
        assert self.written(url) == b"someone else's"

    def test_retract_removes_what_appeared_and_nothing_else(self, tmp_path: Path) -> None:
        url = self.replaceable(tmp_path)
        sink = self.create(url, force=True)
        if type(sink).retract is Sink.retract:
            sink.abort()
            pytest.skip("it has no retract: where a dump of several files fails at the end, the first ones stay")
        self.fill(sink, [Extent(0, b"ours")], 4)
        sink.retract()
        assert self.written(url) is None, "what it made appear is there after retract"
        sink.retract()  # a second time there is nothing to do
        sink = self.create(url)
        self.fill(sink, [Extent(0, b"ours")], 4)
        self.fill(self.create(url, force=True), [Extent(0, b"someone else's")], 14)
        sink.retract()
        assert self.written(url) == b"someone else's", "retract removes what another one wrote"

    # --- what the tests are made of ---

    def holds(self, url: str, pieces: Sequence[Extent | Hole], size: int) -> None:
        """The output is these pieces, and zeros."""
        wanted = bytearray(size)
        for piece in pieces:
            end = min(size, piece.offset + piece.size)
            wanted[piece.offset : end] = piece.data if isinstance(piece, Extent) else bytes(end - piece.offset)
        found = self.written(url)
        assert found is not None, "there is no output"
        assert len(found) == size
        # Not ==, whose report would take long to make of so many bytes.
        where = next((at for at in range(0, size, 4096) if found[at : at + 4096] != wanted[at : at + 4096]), None)
        assert where is None, f"the output is not what was written, from {where:#x} on"


def _write(sink: Sink, pieces: Sequence[Extent | Hole]) -> None:
    for piece in pieces:
        sink.write(piece)
