"""What ELF calls machines and types of notes, as pyelftools has it."""

from __future__ import annotations

from elftools.elf.descriptions import describe_e_machine
from elftools.elf.enums import ENUM_CORE_NOTE_N_TYPE, ENUM_E_MACHINE


def machine_name(machine: int) -> str | None:
    """``EM_S390, IBM S/390`` of 22, ``EM_PARISC`` of 15, which has no description; None of a number without a name."""
    name = next((name for name, value in ENUM_E_MACHINE.items() if value == machine), None)
    described = describe_e_machine(name) if name else "<unknown>"
    return name if described == "<unknown>" else f"{name}, {described}"


def note_type_name(name: str, type_: int) -> str | None:
    """``NT_PRSTATUS`` of type 1 of a CORE note; None where it has no name."""
    return next((n for n, value in ENUM_CORE_NOTE_N_TYPE.items() if value == type_), None) if name == "CORE" else None
