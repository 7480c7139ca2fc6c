from __future__ import annotations

from typing import ClassVar

from pydump.interfaces.arch import Arch
from pydump.model.guest import Cpu
from pydump.testing.arch import ArchTests
from pydump_arch_loongarch64 import Loongarch64Arch


class TestLoongarch64(ArchTests):
    arch: ClassVar[type[Arch]] = Loongarch64Arch

    def test_the_notes_are_laid_out_as_in_the_kernel(self) -> None:
        prstatus, fpregset = self.arch.cpu_notes([Cpu(0, {"r3": 0x11, "era": 0x22, "fcsr": 0x33})], "little")
        assert (len(prstatus.desc), prstatus.desc[136], prstatus.desc[376]) == (480, 0x11, 0x22)
        assert (len(fpregset.desc), fpregset.desc[264]) == (268, 0x33)
