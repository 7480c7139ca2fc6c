"""Options that make no sense together, or without another, are refused before anything is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import pydump
from pydump.errors import PlanError
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap
from pydump.model.vmcoreinfo import Vmcoreinfo
from pydump.registry import installed

TEXT = Vmcoreinfo(b"OSRELEASE=6.1.0\nPAGESIZE=4096\n")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"format": "raw", "flatten": True}, "nothing reads a flattened stream of raw"),
        ({"format": "raw", "flatten": True, "options": {"raw": {"packed": True}}}, "nothing reads a flattened stream"),
        ({"format": "lime", "compat": "qemu"}, "QEMU does not write lime"),
        ({"format": "raw", "compat": "qemu"}, "QEMU does not write raw"),
        ({"filter_anyway": True}, "--filter-anyway has no effect"),
        ({"compat": "qemu", "paging": True, "format": "elf"}, "--compat qemu writes none"),
        ({"compat": "qemu", "dump_level": 1}, "--compat qemu cannot"),
        ({"compat": "qemu", "ram_only": True}, "--compat qemu cannot"),
        ({"compat": "qemu", "split": 2}, "QEMU writes one file"),
        ({"vmcoreinfo": TEXT, "no_vmcoreinfo": True}, "exclude each other"),
        ({"executor": "local:1", "workers": 2}, "--workers does not go with --executor"),
        ({"arch": ""}, "unknown arch ''"),
        ({"format": ""}, "unknown format ''"),
        ({"executor": ""}, "--executor '' names no workers; leave --executor out"),
        ({"executor": ":"}, "--executor : names no workers; leave --executor out"),
        ({"executor": "local:"}, "--executor local: names no workers; write local, or leave --executor out"),
        ({"executor": "dask:"}, "--executor dask: names no workers; write dask, or leave"),
        ({"executor": "dask:local:"}, "--executor dask:local: names no workers; write dask:local, or leave"),
        ({"format": "elf", "compression": "zlib"}, "elf does not compress"),
        ({"options": {"raw": {"packed": True}}}, "--raw-packed"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("dry_run", [False, True])
def test_a_pair_that_makes_no_sense_is_refused(
    options: dict[str, Any], why: str, dry_run: bool, tmp_path: Path
) -> None:
    image = pydump.BytesImage(Guest(MemoryMap(), arch="x86_64"), {0: bytes(1 << 16)})
    with pytest.raises(PlanError, match=why):
        pydump.dump(image, tmp_path / "out.%d" if "split" in options else tmp_path / "out", dry_run=dry_run, **options)
    assert not list(tmp_path.iterdir())


def test_qemus_bytes_are_offered_for_what_qemu_writes() -> None:
    """Source: QEMU, qapi/dump.json, DumpGuestMemoryFormat: elf, kdump in its forms, win-dmp."""
    assert [cls.name for cls in installed().formats() if cls.qemu_writes] == ["elf", "kdump", "windmp"]
