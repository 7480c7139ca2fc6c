"""The running kernel's names: struct new_utsname within init_uts_ns.

Source: struct uts_namespace (include/linux/utsname.h) and struct new_utsname (include/uapi/linux/utsname.h) of Linux.
"""

from __future__ import annotations

from typing import Final

from pydump.errors import PydumpError
from pydump.kernel.memory import KernelMemory
from pydump.model.guest import Utsname

#: Bytes of each string.
NEW_UTS_LEN: Final = 65
#: In the struct's order.
FIELDS: Final = ("sysname", "nodename", "release", "version", "machine", "domainname")
#: Where they may lie within init_uts_ns where VMCOREINFO does not say, before Linux 5.11: behind a kref of 4 bytes.
OFFSETS: Final = (4, 0)


def read_utsname(kernel: KernelMemory) -> Utsname | None:
    """The names that the kernel has, as ``uname -a`` prints them; None where they are not where VMCOREINFO says.

    The release there must be VMCOREINFO's: then the kernel that VMCOREINFO describes is the one that runs.
    """
    release, names = kernel.info.osrelease, kernel.symbol("init_uts_ns")
    if release is None or names is None:
        return None
    stated = kernel.offset("uts_namespace.name")
    for offset in OFFSETS if stated is None else (stated,):
        try:
            data = kernel.read(names + offset, len(FIELDS) * NEW_UTS_LEN)
        except PydumpError:  # what VMCOREINFO says is nonsense, or lies where nothing is
            continue
        texts = [data[at : at + NEW_UTS_LEN].partition(b"\0")[0] for at in range(0, len(data), NEW_UTS_LEN)]
        found = Utsname(*(text.decode("utf-8", "replace") for text in texts))
        if found.release == release:
            return found
    return None
