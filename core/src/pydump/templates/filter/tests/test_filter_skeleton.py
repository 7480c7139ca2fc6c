from __future__ import annotations

from typing import ClassVar

from pydump.builtin.raw import BytesImage
from pydump.interfaces.arch import Arch
from pydump.interfaces.filter import Filter
from pydump.interfaces.image import MemoryImage
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap, Ranges
from pydump.testing.filter import FilterTests
from pydump_filter_skeleton import SkeletonFilter, SkeletonOptions


class TestSkeleton(FilterTests):
    filter: ClassVar[type[Filter]] = SkeletonFilter

    def example(self) -> tuple[MemoryImage, Guest, type[Arch]]:
        source = BytesImage(Guest(MemoryMap()), {0x1000: bytes(4 << 20)})
        return source, source.guest(), Arch

    def test_the_beginning_is_left_out(self) -> None:
        for size in (1, 2):
            found = self.filter.classify(*self.example(), SkeletonOptions(size))
            assert found.classes == {"skeleton": Ranges.of([(0x1000, 0x1000 + (size << 20))])}
