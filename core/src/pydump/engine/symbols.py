"""Kernel symbols at the addresses that they have in a dump.

They come from its VMCOREINFO, from the kernel's own file, and since Linux 6.0 from the table in the kernel's memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pydump.engine.open import open_kernel
from pydump.errors import PlanError
from pydump.interfaces.format import KernelFile
from pydump.model.vmcoreinfo import Vmcoreinfo
from pydump.options import parse_number
from pydump.registry import Registry

if TYPE_CHECKING:
    from pydump.kernel.kallsyms import Kallsyms

#: Symbols that VMCOREINFO has: how far they are from where the kernel's file has them is how far KASLR moved it.
COMMON: Final = ("_stext", "init_uts_ns", "swapper_pg_dir", "node_online_map")


class Symbols:
    """Symbols of one dump's kernel.

    Args:
        info: The dump's VMCOREINFO, or None.
        file: The kernel's own file, or None.
        table: Reads the kernel's own table of symbols out of the dump, and gives None where it is not there.

    Attributes:
        build_id: Of the file, in hexadecimal, or None.
        shift: How far the kernel was moved from where its file has it, in bytes; negative where it was moved down.
        checked: What shows that the file belongs to the dump: "build id", "symbols", or "" where nothing does.

    Raises:
        PlanError: The file is not that of the dump's kernel.
    """

    def __init__(
        self, info: Vmcoreinfo | None, file: KernelFile | None, table: Callable[[], Kallsyms | None] = lambda: None
    ) -> None:
        self._table = table
        self._info = info or Vmcoreinfo(b"")
        self._file = file
        self.build_id = file.build_id if file else None
        self.shift, self.checked = self._check(file) if file else (0, "")

    @classmethod
    def open(
        cls,
        info: Vmcoreinfo | None,
        path: str | None,
        registry: Registry,
        table: Callable[[], Kallsyms | None] = lambda: None,
    ) -> Symbols:
        """Open the kernel's file at ``path``, if one is named.

        Raises:
            PydumpError: It cannot be opened, or is not that of the dump's kernel.
        """
        if path is None:
            return cls(info, None, table)
        return cls(info, open_kernel(path, registry), table)

    def _check(self, file: KernelFile) -> tuple[int, str]:
        stated = self._info.get("BUILD-ID")
        if stated and file.build_id and stated.lower() != file.build_id.lower():
            raise self._differs(file, f"its build id is {file.build_id}, and that of the dump {stated}")
        pairs = [(self._info.symbol(name), file.symbol(name)) for name in COMMON]
        shifts = {there - here for there, here in pairs if there is not None and here is not None}
        if len(shifts) > 1:
            raise self._differs(file, "its symbols lie otherwise than those of the dump")
        same_id = bool(stated and file.build_id)
        if shifts:
            return shifts.pop(), "build id" if same_id else "symbols"
        return self._info.hexadecimal("KERNELOFFSET") or 0, "build id" if same_id else ""

    def _differs(self, file: KernelFile, why: str) -> PlanError:
        release = self._info.osrelease or "that release"
        return PlanError(f"{file.path} is not the dump's kernel: {why}", hint=f"name the vmlinux of {release}")

    def address(self, name: str) -> int:
        """The virtual address of a symbol, ``NAME`` or ``NAME+OFFSET``, in the guest.

        Raises:
            PlanError: There is no such symbol.
        """
        base, plus, offset = name.partition("+")
        found = self._info.symbol(base)
        if found is None and self._file:
            value = self._file.symbol(base)
            found = None if value is None else (value + self.shift) % (1 << 64)
        names = self._table() if found is None else None
        if names is not None:
            found = names.address(base)
        if found is None:
            known = self._file is not None or names is not None
            hint = "check its name" if known else "VMCOREINFO has few: name the kernel's file with --vmlinux"
            raise PlanError(f"there is no symbol {base!r}", hint=hint)
        return found + (parse_number(offset) if plus else 0)
