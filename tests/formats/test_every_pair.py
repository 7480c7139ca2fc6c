"""Dumps between any two formats: the same memory, and a warning that names what the target cannot hold.

A Windows crash dump holds Windows guests alone, and raw memory is written in one format and read in another: they
have tests of their own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import pydump
from pydump.model.guest import Cpu, Guest
from pydump.model.memory import MemoryMap, Ranges
from pydump.model.vmcoreinfo import Vmcoreinfo
from pydump.registry import installed
from pydump.testing import guests
from pydump.testing.sources import Filtered

PAGE = 4096
ARCH = installed().arch("x86_64")
TEXT = b"OSRELEASE=6.1.0\nPAGESIZE=4096\nSYMBOL(_stext)=ffffffff81000000\n"
#: How each kind of file is written: its format, and options of pydump.dump.
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "elf": ("elf", {}),
    "kdump": ("kdump", {"compression": "zlib"}),
    "flattened": ("kdump", {"compression": "zstd", "flatten": True}),
    "split": ("kdump", {"compression": "lzo", "split": 2}),
    "lime": ("lime", {}),
    "avml": ("avml", {}),
}
LEFT_OUT = Ranges.of([(3 * PAGE, 9 * PAGE), (0x100000 + 20 * PAGE, 0x100000 + 25 * PAGE)])


def source(*, filtered: bool = False) -> pydump.MemoryImage:
    notes = ARCH.cpu_notes((Cpu(0, {"rip": 0x1234}), Cpu(1, {"rip": 0x5678})), "little")
    facts = Guest(MemoryMap.of([]), arch="x86_64", byte_order="little", notes=notes, vmcoreinfo=Vmcoreinfo(TEXT))
    image = pydump.BytesImage(facts, {0: bytes(guests.memory(100)), 0x100000: bytes(guests.memory(60, seed=3))})
    return Filtered(image, LEFT_OUT) if filtered else image


def write(image: Any, form: str, directory: Path, **options: Any) -> tuple[str, pydump.DumpReport]:
    """Write a file of a form; gives what names it."""
    name, wanted = FORMS[form]
    output = directory / ("part.%d" if "split" in wanted else form)
    report = pydump.dump(image, output, format=name, sync=False, workers=1, hash_memory=True, **wanted, **options)
    return ",".join(report.parts) or report.output, report


@pytest.fixture(scope="module", params=[False, True], ids=["whole", "filtered"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """Of each form the file, and the hash of its memory."""
    made = {}
    for form in FORMS:
        where = tmp_path_factory.mktemp(form)
        file, report = write(source(filtered=request.param), form, where)
        made[form] = file, report.memory_hash
    return made


def carried(form: str) -> frozenset[str]:
    return installed().format(FORMS[form][0]).format.carries


@pytest.mark.parametrize("target", FORMS)
@pytest.mark.parametrize("origin", FORMS)
def test_a_guest_goes_from_one_format_to_another(
    origin: str, target: str, written: dict[str, tuple[str, str]], tmp_path: Path
) -> None:
    file, wanted = written[origin]
    arch = None if "arch" in carried(origin) else "x86_64"
    made, report = write(file, target, tmp_path, arch=arch)
    assert report.memory_hash == wanted
    back = pydump.verify(made, arch=None if "arch" in carried(target) else "x86_64", hash_memory=True)
    assert back.ok and back.memory_hash == wanted
    said = " ".join(report.warnings)
    with pydump.open(file, arch="x86_64") as left, pydump.open(made, arch="x86_64") as right:
        lacks = carried(origin) - carried(target)
        assert ("notes" in lacks) == ("4 notes" in said or "2 notes" in said)
        assert ("vmcoreinfo" in lacks) == ("VMCOREINFO" in said)
        assert ("--arch x86_64" in said) == ("arch" not in carried(target))
        if "excluded" in carried(origin) & carried(target):
            assert right.image.excluded() == left.image.excluded()
        else:
            assert ("that are excluded are" in said) == bool(left.image.excluded())
        if "notes" in carried(origin) & carried(target):
            assert right.notes == left.notes and len(right.cpus) == 2
            assert right.vmcoreinfo == left.vmcoreinfo
    if carried(origin) == carried(target):
        assert pydump.compare(file, made, arch=arch).same


def test_every_format_that_is_written_is_among_them() -> None:
    names = {cls.name for cls in installed().formats() if cls.writes()}
    assert names - {"raw", "windmp"} == {name for name, _ in FORMS.values()}
