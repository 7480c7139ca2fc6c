"""What every compressor must do.

A plugin's tests subclass :class:`CompressorTests`::

    class TestZlib(CompressorTests):
        compressor = ZlibCompressor

and add what only they can know: that another program reads their streams, and theirs reads another's.
"""

from __future__ import annotations

import mmap
import pickle
import tracemalloc
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pydump.errors import CompressionError
from pydump.interfaces.compressor import Compressor
from pydump.options import with_values
from pydump.testing.declared import faults_of_claims, faults_of_options, options_at_the_ends
from pydump.testing.fresh import native_modules
from pydump.testing.guests import KINDS, random_page, text_page, zero_page
from pydump.testing.peak import peak_of

PAGE = 4096

# The same test function runs for every subclass, on machines that have other work to do.
_shared = settings(
    deadline=None,
    max_examples=200,
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
)


def _mapped(data: bytes) -> mmap.mmap:
    area = mmap.mmap(-1, len(data))
    area.write(data)
    return area


#: Ways in which a page's bytes may come: whatever has the buffer protocol.
BUFFERS: dict[str, Callable[[bytes], Any]] = {
    "bytes": bytes,
    "bytearray": bytearray,
    "memoryview": memoryview,
    "writable memoryview": lambda data: memoryview(bytearray(data)),
    "mmap": _mapped,
    "memoryview of mmap": lambda data: memoryview(_mapped(data)),
    "numpy": lambda data: np.frombuffer(data, np.uint8),
    "memoryview of numpy": lambda data: np.frombuffer(data, np.uint8).data,
}


class CompressorTests:
    """The tests.

    Attributes:
        compressor: The class under test.
        options: Values for its options, where they are not the defaults.
    """

    compressor: ClassVar[type[Compressor]]
    options: ClassVar[dict[str, Any]] = {}

    def make(self) -> Compressor:
        """An instance with ``options``."""
        return self.compressor(with_values(self.compressor.name, self.compressor.Options(), self.options))

    # --- what it is ---

    def test_it_has_a_name(self) -> None:
        name = self.compressor.name
        assert name.isidentifier() and name.islower(), (
            f"{name!r} is not a valid name: use lower-case letters, digits and _"
        )
        assert faults_of_claims("compressor", self.compressor) == []

    def test_its_options_have_help_and_valid_defaults(self) -> None:
        assert faults_of_options(self.compressor) == []

    def test_it_names_its_producer_in_one_line(self) -> None:
        producer = self.make().producer
        plain = producer.strip() == producer and producer.isprintable() and producer
        assert plain, f"{producer!r} is not a line of text"

    def test_its_advice_is_a_line_or_nothing(self) -> None:
        advice = self.make().advice
        assert advice.strip() == advice and (advice.isprintable() or not advice), f"{advice!r} is not a line of text"

    def test_importing_it_loads_nothing_native(self) -> None:
        assert native_modules(self.compressor, call=True) == []

    def test_it_can_be_pickled_before_and_after_use(self) -> None:
        page = text_page(1)
        codec = self.make()
        unused = pickle.loads(pickle.dumps(codec))
        stream = codec.compress(page)
        codec.decompress(stream, PAGE)
        used = pickle.loads(pickle.dumps(codec))
        for other in (unused, used):
            assert other.options == codec.options
            assert other.compress(page) == stream
            assert other.decompress(stream, PAGE) == page

    # --- there and back ---

    @pytest.mark.parametrize(
        ("size", "buffer"),
        [*((PAGE, buffer) for buffer in BUFFERS), (16384, "bytes"), (65536, "bytes")],
    )
    def test_a_page_comes_back(self, size: int, buffer: str) -> None:
        codec, made = self.make(), BUFFERS[buffer]
        for kind in KINDS:
            page, what = kind(7, size), kind.__name__
            stream = codec.compress(made(page))
            back = codec.decompress(made(stream), size)
            assert (type(stream), type(back)) == (bytes, bytes), what
            assert back == page, f"the {what} that comes back is another"
            for other in (codec, self.make()):
                assert stream == other.compress(page), (
                    f"the same {what} gives the same stream, whatever its bytes lie in"
                )

    @pytest.mark.parametrize("kind", [zero_page, text_page])
    def test_what_can_shrink_shrinks(self, kind: Callable[[int, int], bytes]) -> None:
        assert len(self.make().compress(kind(1, PAGE))) < PAGE // 4

    def test_a_batch_gives_what_its_pages_give(self) -> None:
        pages = [kind(seed, PAGE) for seed in range(5) for kind in KINDS]
        view = memoryview(bytearray(b"".join(pages)))
        codec = self.make()
        every_other = list(range(0, len(view), 2 * PAGE))
        assert codec.compress_batch(view, PAGE, every_other) == [codec.compress(page) for page in pages[::2]]

    def test_a_page_gives_the_same_in_any_batch(self) -> None:
        view = memoryview(bytearray(text_page(1) + random_page(2) + text_page(3)))
        codec = self.make()
        alone = codec.compress_batch(view, PAGE, [2 * PAGE])
        assert codec.compress_batch(view, PAGE, [0, PAGE, 2 * PAGE])[2:] == alone
        assert self.make().compress_batch(view.toreadonly(), PAGE, [2 * PAGE]) == alone

    def test_an_empty_batch_is_empty(self) -> None:
        assert self.make().compress_batch(memoryview(bytes(PAGE)), PAGE, []) == []

    def test_a_batch_lets_go_of_its_input(self) -> None:
        data = bytearray(text_page(1) * 2)
        self.make().compress_batch(memoryview(data), PAGE, [0, PAGE])
        data.append(0)  # raises BufferError while anything still looks at it

    @given(st.binary(min_size=1, max_size=3 * PAGE))
    @_shared
    def test_any_bytes_come_back(self, data: bytes) -> None:
        codec = self.make()
        assert codec.decompress(codec.compress(data), len(data)) == data

    def test_a_page_is_read_without_the_options_that_it_was_written_with(self) -> None:
        """Who reads a dump does not know them: what decompress needs must be in the stream."""
        page, without = text_page(1), self.compressor()
        for options in ({}, self.options, *options_at_the_ends(self.compressor.Options)):
            codec = self.compressor(with_values(self.compressor.name, self.compressor.Options(), options))
            try:
                back = without.decompress(codec.compress(page), PAGE)
            except CompressionError as error:
                back = str(error).encode()
            assert back == page, f"decompress needs the options {options}"

    # --- damage ---

    @pytest.mark.parametrize("kind", KINDS)
    def test_another_size_is_an_error(self, kind: Callable[[int, int], bytes]) -> None:
        codec = self.make()
        stream = codec.compress(kind(1, PAGE))
        for size in (1, PAGE - 1, PAGE + 1, 2 * PAGE, 64 * PAGE):
            self.refuses(codec, stream, size)

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_stream_cut_off_anywhere_is_an_error(self, kind: Callable[[int, int], bytes]) -> None:
        codec = self.make()
        stream = codec.compress(kind(1, PAGE))
        for length in {*range(min(len(stream), 64)), *range(max(0, len(stream) - 64), len(stream))}:
            self.refuses(codec, stream[:length], PAGE)

    @pytest.mark.parametrize("kind", KINDS)
    def test_bytes_after_the_stream_are_an_error(self, kind: Callable[[int, int], bytes]) -> None:
        codec = self.make()
        stream = codec.compress(kind(1, PAGE))
        for tail in (b"\0", b"\xff", bytes(64), b"garbage"):
            self.refuses(codec, stream + tail, PAGE)

    @given(st.binary(max_size=600))
    @_shared
    def test_any_bytes_give_a_page_or_an_error(self, data: bytes) -> None:
        self.survives(self.make(), data)

    @given(
        st.sampled_from(KINDS),
        st.lists(st.tuples(st.integers(0, PAGE), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4),
    )
    @_shared
    def test_a_damaged_stream_gives_a_page_or_an_error(
        self, kind: Callable[[int, int], bytes], patches: list[tuple[int, bytes]]
    ) -> None:
        codec = self.make()
        stream = bytearray(codec.compress(kind(3, PAGE)))
        for at, patch in patches:
            at %= len(stream)
            stream[at : at + len(patch)] = patch
        self.survives(codec, bytes(stream))

    @pytest.mark.parametrize("huge", [1 << 20, 1 << 26])
    def test_a_stream_of_a_huge_page_costs_no_more_than_itself(self, huge: int) -> None:
        codec = self.make()
        bomb = codec.compress(bytes(huge))
        self.refuses(codec, b"warm up", PAGE)
        tracemalloc.start()
        try:
            self.refuses(codec, bomb, PAGE)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 64 * PAGE + 4 * len(bomb)

    def test_a_stream_of_a_huge_page_takes_no_memory_of_its_library(self) -> None:
        codec = self.make()
        bomb = codec.compress(bytes(1 << 26))
        self.refuses(codec, b"warm up", PAGE)
        assert peak_of(lambda: self.refuses(codec, bomb, PAGE)) < 1 << 25

    # --- for subclasses with vectors of their own ---

    def refuses(self, codec: Compressor, data: bytes, size: int) -> None:
        """``data`` raises CompressionError, in one line that names the compressor."""
        with pytest.raises(CompressionError) as caught:
            codec.decompress(data, size)
        assert caught.value.compressor == self.compressor.name
        said = str(caught.value)
        assert said.isprintable(), f"the error is not a line of text: {said!r}"
        assert len(said) > len(self.compressor.name) + 4, f"the error says nothing: {said!r}"

    def survives(self, codec: Compressor, data: bytes) -> None:
        """``data`` gives a whole page, or raises CompressionError and nothing else."""
        try:
            outcome: bytes | CompressionError = codec.decompress(data, PAGE)
        except CompressionError as error:
            outcome = error
        if isinstance(outcome, CompressionError):
            assert str(outcome).isprintable(), f"the error is not a line of text: {str(outcome)!r}"
        else:
            assert len(outcome) == PAGE
