"""Where a PC has its RAM: below 4 GiB is a hole for devices, and what does not fit below it lies at 4 GiB.

A memory backend file holds both parts one behind the other. Source: QEMU, pc_init1 (hw/i386/pc_piix.c), which has up to
3.5 GiB below the hole, or 3 GiB where there is more, and pc_q35_init (hw/i386/pc_q35.c), which has up to 2.75 GiB, or 2
GiB; Firecracker's and VMware's hole begins at 3 GiB.
"""

from __future__ import annotations

from typing import Final

from pydump.errors import PlanError
from pydump.model.guest import Guest

#: Bytes of RAM that lie in one piece on every machine but q35.
IN_ONE_PIECE: Final = 3 << 30


def check_placed(guest: Guest) -> None:
    """Refuse bare memory that is larger than what a PC has below its hole and of which nobody says how it lies.

    Raises:
        PlanError: It is.
    """
    if not guest.placed and guest.memory.end > IN_ONE_PIECE:
        raise PlanError(
            "a PC with more than 3 GiB of RAM has a hole below 4 GiB, and a file of bare memory does not say where",
            hint="write raw:FILE[0:3G]@0,FILE[3G:]@4G for a memory backend, snapshot or .vmem (2G instead of 3G for "
            "QEMU's q35), or raw:FILE[0:]@0 for an image that has the hole in it",
        )
