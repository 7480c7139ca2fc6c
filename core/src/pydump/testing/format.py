"""What every format must do.

A plugin's tests subclass :class:`FormatTests`::

    class TestSegments(FormatTests):
        format = SegmentsFormat

and add what only they can know: that another program opens what it writes. A format that is only read says what a file
of it holds::

    class TestTape(FormatTests):
        format = TapeFormat

        def example(self, tmp_path):
            ...
            return path, {0x1000: b"..."}

A format that does not carry notes, VMCOREINFO, the architecture or excluded pages (:attr:`Format.carries`) is not asked
for them.
"""

# Long: a plugin's tests subclass one class, in which each promise is a test.

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import is_dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pydump.builtin.local import LocalExecutor
from pydump.builtin.raw import BytesImage
from pydump.engine.batches import Batches
from pydump.engine.encoding import job_of
from pydump.engine.live import view_of
from pydump.engine.open import open_source
from pydump.engine.planner import choose, make_plan
from pydump.engine.run import run_dump
from pydump.errors import PydumpError
from pydump.interfaces.format import Format
from pydump.interfaces.image import MemoryImage, Verifiable
from pydump.interfaces.sink import Extent, Hole
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap, Ranges
from pydump.model.request import Request
from pydump.model.vmcoreinfo import Vmcoreinfo
from pydump.plugins import PluginInfo
from pydump.registry import Registry, installed
from pydump.testing import guests
from pydump.testing.declared import faults_of_claims, faults_of_options
from pydump.testing.dummy import MemorySink
from pydump.testing.executors import CopyingExecutor, SpawnedExecutor
from pydump.testing.forks import faults_in_forks
from pydump.testing.fresh import native_modules
from pydump.testing.hostile import faults_of_damage
from pydump.testing.pipes import slow_reader
from pydump.testing.readers import Contents, unflatten
from pydump.testing.reopen import faults_of_reopening
from pydump.testing.sources import (
    GUESTS,
    MACHINE,
    PAGE,
    TEXT,
    Filtered,
    Holed,
    contents,
    dense,
    guest,
    large,
    parting,
    zeros,
)

#: How files begin that some format or program has for its own.
MAGICS = (
    b"\x7fELF", b"KDUMP   ", b"makedumpfile\0\0\0\0", b"EMiL", b"PAGEDU64", b"QEVM", b"LibvirtQemudSave",
    b"\x1f\x8b\x08", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"PK\x03\x04", b"\x89PNG\r\n", b"#!/bin/sh\n",
)  # fmt: skip

_shared = settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class _Extents(MemorySink):
    """Notes where each extent lies."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[tuple[int, int]] = []

    def write(self, extent: Extent | Hole) -> None:
        self.places.append((extent.offset, extent.offset + extent.size))
        super().write(extent)


# Long: a plugin's tests subclass one class, in which each promise is a test.
class FormatTests:
    """The tests.

    Attributes:
        format: The class under test.
        options: Values for its options, where they are not the defaults.
        reader_options: Values for the options of its reader half, where they are not the defaults.
        magics: How files of it begin, where the sample is only one of several kinds.
        independent: Reads what it writes and shares nothing with it, or None where there is no such reader.
    """

    format: ClassVar[type[Format]]
    options: ClassVar[dict[str, Any]] = {}
    reader_options: ClassVar[dict[str, Any]] = {}
    independent: ClassVar[Callable[[bytes], Contents] | None] = None
    magics: ClassVar[tuple[bytes, ...]] = ()

    def example(self, tmp_path: Path) -> tuple[Path, dict[int, bytes]] | None:
        """For a format that is not written: a file, and the memory that it must hold, by paddr. Else None."""
        return None

    # --- how it is run ---

    @property
    def registry(self) -> Registry:
        """What is installed, and the format under test."""
        known = installed()
        if self.format in known.formats():
            return known
        return Registry((*known.plugins, PluginInfo("under test", "", "", (("format", self.format),))))

    def request(self, **wanted: Any) -> Request:
        """A request for the format, with its options."""
        options = {self.format.name: self.options} if self.options else {}
        return Request(format=self.format.name, options=options, **wanted)

    def write(
        self, source: MemoryImage, path: Path, *, workers: int = 1, flatten: bool = False, **wanted: Any
    ) -> bytes:
        """Write a dump of ``source`` and give its bytes."""
        source = self.taken(source)
        request = replace(self.request(**wanted), flatten=flatten, force=True, sync=False)
        run_dump(source, "the guest", str(path), request, self.registry, executor=LocalExecutor(workers))
        return path.read_bytes()

    def taken(self, source: MemoryImage) -> MemoryImage:
        """The guest as the format takes it: a dump of Windows is not of a guest that says it runs Linux."""
        if self.format.carries & {"windows", "vmcoreinfo"} == {"windows"} and isinstance(source, BytesImage):
            source._guest = replace(source._guest, vmcoreinfo=None)
        return source

    def open(self, path: Path) -> MemoryImage:
        """Open what was written."""
        return view_of(open_source(str(path), self.registry, {self.format.name: self.reader_options}))

    def needs(self, *, read: bool = False, write: bool = False) -> None:
        """Skip a test of a half that the format does not have."""
        if read and not self.format.reads():
            pytest.skip("the format is not read")
        if write and not self.format.writes():
            pytest.skip("the format is not written")

    def sample(self, name: str, tmp_path: Path) -> tuple[bytes, MemoryImage]:
        """A file of the format, and the memory that it holds: the guest ``name``, or the example."""
        if self.format.writes():
            return self.write(guest(name), tmp_path / "sample"), guest(name)
        found = self.example(tmp_path)
        if found is None:
            pytest.skip("the format is not written: a subclass of FormatTests with example() tests more")
        return found[0].read_bytes(), BytesImage(Guest(MemoryMap.of([])), dict(found[1]))

    def compressions(self) -> list[str | None]:
        """Every compression that can be tried here."""
        if not self.format.compressors:
            return [None]
        known = self.registry.names("compressor")
        return ["none", *(name for name in self.format.compressors if name in known)]

    # --- what it is ---

    def test_it_says_what_it_is(self) -> None:
        cls = self.format
        plain = cls.name.isprintable() and cls.name == cls.name.lower() and " " not in cls.name
        assert plain, f"{cls.name!r} is not a valid name: it has upper case, spaces or unprintable characters"
        for alias, implied in cls.aliases.items():
            assert set(implied) <= {"compression"}, f"alias {alias} implies more than a compression"
            assert alias != cls.name, f"{alias} is its name, and no alias"
        assert faults_of_options(cls) == []
        assert faults_of_claims("format", cls) == []

    def test_importing_it_loads_nothing_native(self) -> None:
        assert native_modules(self.format) == []

    def test_it_knows_its_own_files_and_no_others(self, tmp_path: Path) -> None:
        own, _ = self.sample("32-bit, little-endian", tmp_path)
        assert self.format.detect(own[:4096]) or not self.format.reads()
        strange = [b"", b"\0", bytes(4096), b"\xff" * 4096, b"text\n" * 800, b"{}", guests.random_page(1)]
        mine = (own, *self.magics)
        strange += [magic.ljust(4096, b"\0") for magic in MAGICS if not any(one.startswith(magic) for one in mine)]
        assert [head[:16] for head in strange if self.format.detect(head)] == []
        for other in self.registry.formats():
            if other is not self.format:
                assert not other.detect(own[:4096]), f"{other.name} claims it"

    def test_another_process_reads_the_same(self, tmp_path: Path) -> None:
        self.needs(read=True)
        found = self.example(tmp_path)
        if found is None:
            self.sample("64-bit, little-endian", tmp_path)
        with self.open(found[0] if found else tmp_path / "sample") as back:
            if back.reopen() is None:
                pytest.skip("the example is unpacked when it is opened")
            assert faults_of_reopening(back) == []

    def test_the_example_holds_its_memory(self, tmp_path: Path) -> None:
        found = self.example(tmp_path)
        if found is None:
            pytest.skip("no example(): what the format writes is read back instead")
        with self.open(found[0]) as back:
            for paddr, data in found[1].items():
                where = parting(data, contents(back, paddr, len(data)))
                assert where is None, f"memory at {paddr + where:#x} is not that of the example"

    # --- there and back ---

    @pytest.mark.parametrize("name", GUESTS)
    def test_a_guest_comes_back(self, name: str, tmp_path: Path) -> None:
        self.needs(read=True, write=True)
        source = guest(name)
        for compression in self.compressions():
            self.write(source, tmp_path / "out", compression=compression)
            with self.open(tmp_path / "out") as back:
                self.same(source, back)
                if isinstance(back, Verifiable):
                    assert list(back.problems()) == []
                assert list(back.defects()) == []

    @pytest.mark.parametrize("kind", [BytesImage, Holed], ids=["read", "holes"])
    def test_a_guest_of_several_batches_comes_back(self, kind: type[BytesImage], tmp_path: Path) -> None:
        self.needs(read=True, write=True)
        source = large(kind)
        for compression in self.compressions():
            data = self.write(source, tmp_path / "out", compression=compression)
            with self.open(tmp_path / "out") as back:
                self.same(source, back)
            self.agrees(source, data)

    def test_memory_that_was_left_out_stays_out(self, tmp_path: Path) -> None:
        self.needs(read=True, write=True)
        left_out = Ranges.of([(0x104000, 0x120000), (0x120000 + PAGE, 0x130000)])
        source = Filtered(guest("64-bit, little-endian"), left_out)
        self.write(source, tmp_path / "out")
        with self.open(tmp_path / "out") as back:
            if "excluded" in self.format.carries:
                assert back.excluded() == left_out
            self.same(source, back)
            for start, end in left_out.intersect(back.guest().memory.ranges()):
                where = parting(bytes(end - start), contents(back, start, end - start))
                assert where is None, "what was left out reads as zeros"

    def test_a_window(self, tmp_path: Path) -> None:
        self.needs(read=True, write=True)
        source = guest("64-bit, little-endian")
        self.write(source, tmp_path / "out", begin=0x105000, length=0x20000)
        with self.open(tmp_path / "out") as back:
            assert [(block.paddr, block.size) for block in back.guest().memory] == [(0x105000, 0x20000)]
            assert parting(contents(source, 0x105000, 0x20000), contents(back, 0x105000, 0x20000)) is None

    def test_pages_of_other_sizes(self, tmp_path: Path) -> None:
        self.needs(read=True, write=True)
        for page_size in (16384, 65536):
            text = Vmcoreinfo(TEXT.replace(b"PAGESIZE=4096", b"PAGESIZE=%d" % page_size))
            facts = Guest(MemoryMap.of([]), machine=MACHINE, byte_order="little", elf_class=64, vmcoreinfo=text)
            source = BytesImage(facts, {1 << 30: bytes(guests.memory(20, page_size=page_size))})
            self.write(source, tmp_path / "out")
            with self.open(tmp_path / "out") as back:
                size = 20 * page_size
                assert parting(contents(source, 1 << 30, size), contents(back, 1 << 30, size)) is None

    def test_an_independent_reader_agrees(self, tmp_path: Path) -> None:
        if type(self).independent is None:
            pytest.skip("no other reader of this format: set `independent` to one of your own")
        self.needs(write=True)
        for name in GUESTS:
            source = guest(name)
            for compression in self.compressions():
                for flatten in (False, True):
                    self.agrees(source, self.write(source, tmp_path / "out", compression=compression, flatten=flatten))

    def test_forked_processes_read_at_once(self, tmp_path: Path) -> None:
        """Where they shared a file position, each would get what another asked for."""
        self.needs(read=True)
        data, source = self.sample("64-bit, little-endian", tmp_path)
        (tmp_path / "out").write_bytes(data)
        memory = {block.paddr: contents(source, block.paddr, block.size) for block in source.guest().memory}
        assert faults_in_forks(lambda: self.open(tmp_path / "out"), memory) == []

    # --- the same bytes ---

    def test_the_same_bytes_however_many_workers(self, tmp_path: Path) -> None:
        self.needs(write=True)
        source = self.taken(large())
        for compression in self.compressions():
            digests = {
                hashlib.sha256(self.write(source, tmp_path / "out", workers=workers, compression=compression)).digest()
                for workers in (1, 2, 5)
            }
            assert len(digests) == 1, compression

    def test_the_same_bytes_down_a_pipe(self, tmp_path: Path) -> None:
        """Its reader is slower than the workers, which encode until they have no room left for what they made."""
        self.needs(write=True)
        source = self.taken(dense())
        digests = set()
        for workers in (1, 2, 3):
            with slow_reader(tmp_path / "out") as fd:
                request = self.request(compression=self.compressions()[0])
                run_dump(source, "the guest", f"fd:{fd}", request, self.registry, executor=LocalExecutor(workers))
            digests.add(hashlib.sha256((tmp_path / "out").read_bytes()).digest())
        assert len(digests) == 1, "what comes out of a pipe depends on the number of workers"

    def test_an_encoder_can_be_pickled(self) -> None:
        """So can what it makes: any process may encode any batch."""
        self.needs(write=True)
        source = self.taken(large())
        for compression in self.compressions():
            chosen = choose(self.request(compression=compression), self.registry)
            planned = make_plan(source, chosen, self.registry)
            encoder = planned.writer.encoder()
            frozen = is_dataclass(encoder) and encoder.__dataclass_params__.frozen
            assert frozen, "an encoder is a frozen dataclass"
            digests, copying = set(), CopyingExecutor()
            for executor in (LocalExecutor(1), copying):
                planned = make_plan(source, chosen, self.registry)
                batches, sink = Batches.of(source, planned.plan.readable(), planned.writer), MemorySink()
                executor.run(job_of(batches, planned.writer, sink, lambda _: None))
                digests.add(hashlib.sha256(sink.data).digest())
            assert len(digests) == 1, f"a copy of the encoder makes something else with {compression}"
            for size, payload_size in copying.sizes:
                assert payload_size <= encoder.max_payload(size), "Encoder.max_payload is too small"

    def test_processes_that_inherit_nothing_write_the_same_bytes(self, tmp_path: Path) -> None:
        self.needs(write=True)
        source = self.taken(large())
        with SpawnedExecutor() as spawned:
            for compression in self.compressions():
                own = self.write(source, tmp_path / "own", compression=compression)
                request = self.request(compression=compression, force=True, sync=False)
                run_dump(source, "the guest", str(tmp_path / "theirs"), request, self.registry, executor=spawned)
                assert (tmp_path / "theirs").read_bytes() == own, compression

    @pytest.mark.parametrize("kind", [BytesImage, Holed], ids=["read", "holes"])
    def test_extents_keep_the_rules(self, kind: type[BytesImage]) -> None:
        self.needs(write=True)
        source = self.taken(large(kind))
        for compression in self.compressions():
            planned = make_plan(source, choose(self.request(compression=compression), self.registry), self.registry)
            writer, sink = planned.writer, _Extents()
            batches, done = Batches.of(source, planned.plan.readable(), writer), list[int]()
            outcome = LocalExecutor(1).run(job_of(batches, writer, sink, done.append))
            assert done == list(accumulate(spec.size for spec in batches.specs())), "Encoded.size is the batch's"
            assert 0 <= outcome.zero_size <= zeros(source), "Encoded.zero_size is of pages that are zero"
            for extent in writer.finish(outcome.end):
                sink.write(extent)
            places = [place for place in sink.places if place[1] > place[0]]
            assert writer.size(outcome.end) <= writer.size_limit
            assert max(end for _, end in places) <= writer.size(outcome.end)
            ordered = sorted(places)
            assert all(a[1] <= b[0] for a, b in zip(ordered, ordered[1:], strict=False)), "two extents overlap"
            if writer.sequential:
                assert places == ordered, "it says that it is sequential"

    # --- damage ---

    def test_a_file_cut_off_anywhere(self, tmp_path: Path) -> None:
        self.needs(read=True)
        data, source = self.sample("64-bit, little-endian", tmp_path)
        cuts = {*range(0, 200, 7), *range(4090, 4200, 11), *range(0, len(data), max(1, len(data) // 40)), len(data) - 1}
        for cut in sorted(cuts):
            (tmp_path / "cut").write_bytes(data[:cut])
            self.survives(tmp_path / "cut")
            self.holds_nothing_else(tmp_path / "cut", source)

    @given(st.lists(st.tuples(st.integers(0, 1 << 20), st.binary(min_size=1, max_size=8)), min_size=1, max_size=5))
    @_shared
    def test_a_damaged_file_gives_memory_or_an_error(self, tmp_path: Path, patches: list[tuple[int, bytes]]) -> None:
        self.needs(read=True)
        whole = tmp_path / "whole"
        if not whole.exists():
            whole.write_bytes(self.sample("32-bit, little-endian", tmp_path)[0])
        data = bytearray(whole.read_bytes())
        for at, patch in patches:
            # Headers are small, and it is they that are believed.
            at = at % len(data) if at % 3 else at % min(len(data), 600)
            data[at : at + len(patch)] = patch
        (tmp_path / "damaged").write_bytes(data)
        self.survives(tmp_path / "damaged")

    def test_damaged_headers_give_memory_or_an_error(self, tmp_path: Path) -> None:
        """Nobody reads a header with care but the reader: each number in it may be any other."""
        self.needs(read=True)
        data, _ = self.sample("32-bit, little-endian", tmp_path)
        assert faults_of_damage(data, tmp_path / "damaged", self.read_some) == []

    # --- what the tests are made of ---

    def same(self, source: MemoryImage, back: MemoryImage) -> None:
        """``back`` is the guest that ``source`` is."""
        stated, found = source.guest(), back.guest()
        left_out = source.excluded()
        for start, end in stated.memory.ranges().subtract(left_out):
            for at in range(start, end, 1 << 20):
                size = min(1 << 20, end - at)
                where = parting(contents(source, at, size), contents(back, at, size))
                assert where is None, f"memory at {at + where:#x} is not what was written"
        carries = self.format.carries
        if "excluded" in carries:
            assert found.memory.ranges() == stated.memory.ranges()
        else:
            assert not stated.memory.ranges().subtract(left_out).subtract(found.memory.ranges()), "RAM is missing"
            assert not found.memory.ranges().subtract(stated.memory.ranges()), "there is RAM that the guest had not"
        if "arch" in carries:
            assert (found.byte_order, found.elf_class) == (stated.byte_order, stated.elf_class)
        if "notes" in carries:
            assert found.notes == stated.notes
        if "vmcoreinfo" in carries:
            assert found.vmcoreinfo is not None and stated.vmcoreinfo is not None
            assert found.vmcoreinfo.text.rstrip(b"\0") == stated.vmcoreinfo.text

    def agrees(self, source: MemoryImage, data: bytes) -> None:
        """An independent reader, where there is one, finds the guest ``source`` in ``data``."""
        read = type(self).independent
        if read is None:
            return
        found, stated = read(unflatten(data)), source.guest()
        if "arch" in self.format.carries:
            assert (found.byte_order, found.elf_class) == (stated.byte_order, stated.elf_class)
        ram = stated.memory.ranges()
        missing = ram.subtract(Ranges.of((at, at + len(run)) for at, run in found.pages.items()))
        assert not missing, f"an independent reader does not find {missing}"
        for at, run in found.pages.items():
            for start, end in ram.clip(at, at + len(run)):
                where = parting(contents(source, start, end - start), run[start - at : end - at])
                assert where is None, f"an independent reader finds something else at {start + where:#x}"
        if found.notes:
            for note in stated.notes:
                assert (note.name, note.type, note.desc) in found.notes, f"{note.name}, {note.type:#x}"
            assert ("VMCOREINFO", 0, TEXT) in found.notes

    def holds_nothing_else(self, path: Path, source: MemoryImage) -> None:
        """What ``path`` says it holds of the memory of ``source`` is that memory, or is refused."""
        with contextlib.suppress(PydumpError), self.open(path) as back:
            held = back.guest().memory.ranges().subtract(back.excluded()).subtract(back.unreadable())
            for start, end in held.intersect(source.guest().memory.ranges()):
                for at in range(start, end, 1 << 16):
                    with contextlib.suppress(PydumpError):
                        size = min(1 << 16, end - at)
                        where = parting(contents(source, at, size), contents(back, at, size))
                        assert where is None, f"memory at {at + where:#x} is not what was written"

    def read_some(self, path: Path) -> None:
        """Open a file, ask for its facts, and read the begin of each block of its memory."""
        with self.open(path) as source:
            ranges = source.guest().memory.ranges()
            list(source.defects())
            for start, end in [*ranges][:8]:
                with contextlib.suppress(PydumpError):
                    contents(source, start, min(1 << 16, end - start))

    def survives(self, path: Path) -> None:
        """``path`` is opened and read, or refused with an error of pydump's."""
        with contextlib.suppress(PydumpError), self.open(path) as source:
            for start, end in source.guest().memory.ranges():
                for at in range(start, min(end, start + (4 << 20)), 1 << 16):
                    with contextlib.suppress(PydumpError):
                        contents(source, at, min(1 << 16, end - at))
