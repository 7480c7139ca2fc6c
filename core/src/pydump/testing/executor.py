"""What every executor must do.

A plugin's tests subclass :class:`ExecutorTests`::

    class TestCluster(ExecutorTests):
        executor = ClusterExecutor
        argument = "local:2"
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from pydump.builtin.local import LocalExecutor
from pydump.engine.open import open_source
from pydump.engine.scan import Piece, scan
from pydump.errors import ReadError
from pydump.interfaces.executor import Executor, Spec, Task
from pydump.interfaces.image import MemoryImage
from pydump.interfaces.writer import Encoded
from pydump.registry import installed
from pydump.testing import guests
from pydump.testing.declared import faults_of_claims, faults_of_options
from pydump.testing.fresh import native_modules
from pydump.testing.sources import contents

#: Bytes of a piece.
SIZE = 64 << 10


@dataclass(frozen=True, slots=True)
class Sums:
    """Where each piece begins, and the sum of its bytes; it fails at an address.

    Attributes:
        fails_at: The paddr of the first piece that fails, or -1.
    """

    fails_at: int = -1

    def examine(self, piece: Piece) -> tuple[int, int]:
        start = piece.runs[0][0]
        if 0 <= self.fails_at <= start:
            raise ReadError(start, piece.size, "the disk is on fire")
        return start, sum(piece.read())


@dataclass(frozen=True, slots=True)
class Copies:
    """The bytes of each piece, where the worker's buffer has them: what becomes of a batch may refer to it, too."""

    def examine(self, piece: Piece) -> Encoded[None]:
        data = piece.read()
        return Encoded(piece.runs[0][0], len(data), data, None, len(data), 0)


class Endless(Task[int]):
    """Pieces without an end."""

    label = "count"
    total = 1 << 40
    piece_size = 1 << 20
    result_size = 100

    def specs(self) -> Iterator[Spec]:
        yield from (Spec(at, 1 << 20, ((at, at + (1 << 20)),)) for at in range(0, self.total, 1 << 20))

    def worker(self) -> Callable[[Spec], int]:
        return position_of


def position_of(spec: Spec) -> int:
    """Where a piece begins."""
    return spec.position


class ExecutorTests:
    """The tests.

    Attributes:
        executor: The class under test.
        argument: What opens one for a test.
    """

    executor: ClassVar[type[Executor]]
    argument: ClassVar[str] = ""

    @pytest.fixture(scope="class")
    @classmethod
    def opened(cls) -> Iterator[Executor]:
        with cls.executor.open(cls.argument) as executor:
            yield executor

    @pytest.fixture
    def image(self, tmp_path: Path) -> Iterator[MemoryImage]:
        (tmp_path / "ram").write_bytes(guests.memory(700))
        with open_source(f"raw:{tmp_path / 'ram'}@0", installed()) as image:
            assert isinstance(image, MemoryImage)
            yield image

    def test_it_says_what_it_is(self) -> None:
        cls = type(self).executor
        assert cls.name.isprintable() and cls.name == cls.name.lower() and not {" ", ":"} & set(cls.name), cls.name
        assert faults_of_options(cls) == []
        assert faults_of_claims("executor", cls) == []

    def test_importing_it_loads_nothing_native(self) -> None:
        assert native_modules(type(self).executor) == []

    def test_it_has_workers(self, opened: Executor) -> None:
        assert opened.workers_for(1) == 1
        assert 1 <= opened.workers_for(1000) <= 1000

    def test_results_come_in_order(self, opened: Executor, image: MemoryImage) -> None:
        ranges = image.guest().memory.ranges()
        want = list(scan(image, ranges, Sums(), piece_size=SIZE, executor=LocalExecutor(1)))
        assert len(want) == 44
        assert list(scan(image, ranges, Sums(), piece_size=SIZE, executor=opened)) == want

    def test_a_result_is_that_of_its_piece_until_the_next_one_is_asked_for(
        self, opened: Executor, image: MemoryImage
    ) -> None:
        """A worker may fill its buffer again only when the result that lies in it was taken, and one more asked for."""
        wrong = []
        for made in scan(image, image.guest().memory.ranges(), Copies(), piece_size=SIZE, executor=opened):
            time.sleep(0.002)  # others work meanwhile
            if bytes(made.payload or b"") != contents(image, made.position, made.size):
                wrong.append(hex(made.position))
        assert wrong == [], "the results of these pieces were overwritten by those of later ones"

    def test_an_error_comes_when_all_before_it_have_been_seen(self, opened: Executor, image: MemoryImage) -> None:
        seen: list[int] = []
        found = scan(image, image.guest().memory.ranges(), Sums(20 * SIZE), piece_size=SIZE, executor=opened)
        with pytest.raises(ReadError, match="on fire") as caught:
            seen.extend(start for start, _ in found)
        assert caught.value.paddr == 20 * SIZE
        assert seen == [n * SIZE for n in range(20)]

    def test_no_more_is_done_ahead_than_is_asked_for(self, opened: Executor) -> None:
        results = opened.map(Endless())
        assert [next(results) for _ in range(100)] == [n << 20 for n in range(100)]
        close = getattr(results, "close", None)
        if close is not None:
            close()
