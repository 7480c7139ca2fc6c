"""How the facts of a guest are completed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pydump.engine.facts import complete, find_arch, is_unknown
from pydump.engine.generic import GenericArch
from pydump.errors import PlanError
from pydump.model.guest import Cpu, Guest, Utsname
from pydump.model.memory import MemoryMap
from pydump.model.note import Note
from pydump.model.vmcoreinfo import Vmcoreinfo
from pydump.registry import installed

#: EM_PARISC of elf.h, for which there is no plugin.
PARISC = 15
STATED = Guest(MemoryMap.of([(0, 1 << 20)]), machine=PARISC, byte_order="big", elf_class=32)


def test_a_guest_without_a_plugin_keeps_what_its_image_states() -> None:
    stated = replace(STATED, page_size=16384, phys_base=-4096, utsname=Utsname(nodename="pa", machine="parisc"))
    guest, arch, warnings = complete(stated, None, installed())
    assert arch is GenericArch
    names = Utsname("Linux", "pa", "unknown", "unknown", "parisc")
    assert guest == replace(stated, utsname=names, n_cpus=0)
    assert warnings[0].startswith("no architecture plugin knows this guest (e_machine 15): facts are taken as ")


def test_a_guest_without_a_plugin_gets_the_usual_values_for_what_is_not_stated() -> None:
    prstatus = tuple(Note("CORE", 1, bytes(4 * n)) for n in (10, 20))
    guest = complete(replace(STATED, notes=prstatus), None, installed()).guest
    assert (guest.arch, guest.machine, guest.page_size, guest.phys_base, guest.n_cpus) == (None, PARISC, 4096, 0, 2)


def test_registers_of_a_guest_without_a_plugin_are_left_out() -> None:
    guest, _, warnings = complete(replace(STATED, cpus=(Cpu(0, {"cs": 8}), Cpu(1, {"cs": 8}))), None, installed())
    assert (guest.cpus, guest.notes, guest.n_cpus) == ((), (), 2)
    assert "the registers of 2 CPUs are left out: no architecture plugin knows them" in warnings


@pytest.mark.parametrize(("text", "size"), [("PAGESIZE=65536", 65536), ("PAGESIZE=512", 512), ("PAGESIZE=1000", 4096)])
def test_vmcoreinfo_states_the_page_size_of_a_guest_without_a_plugin(text: str, size: int) -> None:
    info = Vmcoreinfo(f"OSRELEASE=6.1.0\n{text}\n".encode())
    guest = complete(replace(STATED, vmcoreinfo=info), None, installed()).guest
    assert (guest.page_size, guest.utsname.release) == (size, "6.1.0")


@pytest.mark.parametrize("missing", ["byte_order", "elf_class"])
def test_a_guest_that_nobody_knows_is_refused_where_too_little_is_stated(missing: str) -> None:
    stated, registry = replace(STATED, **{missing: None}), installed()  # type: ignore[arg-type]
    assert find_arch(stated, registry) is GenericArch and is_unknown(stated, None, registry)
    with pytest.raises(PlanError, match="does not name the guest's architecture.* name it with --arch; available: "):
        complete(stated, None, registry)
    assert not is_unknown(stated, "x86_64", registry)
