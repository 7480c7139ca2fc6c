"""What is known of a guest that runs Windows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WindowsFacts:
    """The facts that the header of a Windows crash dump states.

    Attributes:
        header: The header's bytes: 8192 of a 64-bit Windows, 4096 of a 32-bit one.
        bits: 64 or 32.
        build: The build number of Windows, such as 19041; 0 where it is not known.
        n_cpus: Number of CPUs; 0 where it is not known.
        directory_table_base: Paddr of the kernel's top page table; 0 where it is not known.
        pae: Whether the page tables of a 32-bit Windows have entries of 8 bytes.
        kd_debugger_data_block: Vaddr of the kernel debugger's data block; 0 where it is not known.
        bugcheck: The code of the stop error and its four parameters; a code of 0x161 is a dump of a running system.
    """

    header: bytes
    bits: int
    build: int
    n_cpus: int
    directory_table_base: int
    pae: bool
    kd_debugger_data_block: int
    bugcheck: tuple[int, int, int, int, int]

    @property
    def release(self) -> str:
        """What stands where Linux has its release: the build number."""
        return f"build {self.build}" if self.build else "unknown"
