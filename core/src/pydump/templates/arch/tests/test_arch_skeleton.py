from __future__ import annotations

from typing import ClassVar

from pydump.interfaces.arch import Arch
from pydump.testing.arch import ArchTests
from pydump_arch_skeleton import SkeletonArch


class TestSkeleton(ArchTests):
    arch: ClassVar[type[Arch]] = SkeletonArch
