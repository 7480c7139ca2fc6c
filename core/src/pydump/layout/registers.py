"""CPU notes as tables: which register lies where in a note, and packing and unpacking by that table.

An architecture declares each kind of note once::

    NoteKind(
        "PRSTATUS", "CORE", 1, 376,
        run(32, 4, "pr_pid") + run(112, 8, "pc ra sp gp tp …"),
    )

Values are Python ints of any width, so a 128-bit vector register is one field as well, and the byte order is an
argument. A register may lie in several notes; it has one value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from pydump.errors import PlanError
from pydump.model.guest import Cpu
from pydump.model.note import Note

if TYPE_CHECKING:
    from pydump.model.guest import ByteOrder

#: The register that says whose a PRSTATUS note is; where it is not given, it is the CPU's index + 1, as in QEMU.
PR_PID: Final = "pr_pid"


class Register(NamedTuple):
    """One register of an architecture's table.

    Attributes:
        name: As people and debuggers call it, lower case.
        bits: Its width.
        note: The label of the first note that holds it: "PRSTATUS", "QEMU", "SVE", …
        default: Its value where none is given.
    """

    name: str
    bits: int
    note: str
    default: int = 0


class Field(NamedTuple):
    """Where a register lies in a note.

    Attributes:
        offset: From the note's first byte of content.
        size: Bytes.
        register: The register's name.
        bits: The register's width; what is left of the field is zero.
        default: The register's value where none is given.
    """

    offset: int
    size: int
    register: str
    bits: int
    default: int = 0


def run(offset: int, size: int, registers: str, *, bits: int | None = None, default: int = 0) -> tuple[Field, ...]:
    """Fields of one size that follow each other.

    Args:
        offset: Of the first.
        size: Bytes of each.
        registers: Names, separated by blanks.
        bits: Width of each register; default: all of the field.
        default: The value of each where none is given.
    """
    return tuple(
        Field(offset + i * size, size, name, bits or 8 * size, default) for i, name in enumerate(registers.split())
    )


def numbered(pattern: str, n: int, *, first: int = 0) -> str:
    """``"r{}"`` and 3 to ``"r0 r1 r2"``."""
    return " ".join(pattern.format(i) for i in range(first, first + n))


@dataclass(frozen=True)
class NoteKind:
    """A kind of note that an architecture writes for each CPU.

    A note whose layout depends on a register (a vector length) is a subclass with its own ``pack`` and ``unpack``.

    Attributes:
        label: The name its registers refer to.
        name: The note's owner ("CORE", "LINUX", "QEMU").
        type: The note's type.
        size: Bytes of its content, or None where it varies.
        fields: Where the registers lie.
        constants: ``(offset, size, value)`` of what is the same in every such note; a value of None is the note's size.
        least: Bytes of the first version of a note that grew with time; None where it never did.
        when: The register that is zero where the note is missing, or None for a note that every CPU has.
    """

    label: str
    name: str
    type: int
    size: int | None
    fields: tuple[Field, ...] = ()
    constants: tuple[tuple[int, int, int | None], ...] = ()
    least: int | None = None
    when: str | None = None

    @property
    def later(self) -> frozenset[str]:
        """The registers that the first version of the note does not have."""
        return frozenset(f.register for f in self.fields if self.least is not None and f.offset >= self.least)

    def matches(self, note: Note) -> bool:
        """Is ``note`` of this kind?"""
        return (note.name, note.type) == (self.name, self.type)

    def pack(self, values: Mapping[str, int], byte_order: ByteOrder) -> Note:
        """The note that holds these values; a register that is not given has its default.

        Where none of those is given that later versions have, it is of the first.
        """
        length = self.least if self.later and not values.keys() & self.later else self.size
        desc = bytearray(length or 0)
        for offset, size, constant in self.constants:
            desc[offset : offset + size] = (len(desc) if constant is None else constant).to_bytes(size, byte_order)
        for field in self.fields:
            if field.offset < len(desc):
                value = values.get(field.register, field.default)
                desc[field.offset : field.offset + field.size] = value.to_bytes(field.size, byte_order)
        return Note(self.name, self.type, bytes(desc))

    def fits(self, note: Note) -> bool:
        """Whether ``note``, which is of this kind, is as long as it should be."""
        # What a later version adds stands behind what is known.
        return len(note.desc) == (self.size or 0) if self.least is None else len(note.desc) >= self.least

    def unpack(self, note: Note, byte_order: ByteOrder) -> dict[str, int]:
        """The values of the registers in ``note``, which :meth:`fits`."""
        return {
            field.register: int.from_bytes(note.desc[field.offset : field.offset + field.size], byte_order)
            & (1 << field.bits) - 1
            for field in self.fields
            if field.offset + field.size <= len(note.desc)
        }


def registers_of(kinds: Iterable[NoteKind]) -> tuple[Register, ...]:
    """The register table that these notes make up, each register once, in the notes' order."""
    table: dict[str, Register] = {}
    for kind in kinds:
        for field in kind.fields:
            table.setdefault(field.register, Register(field.register, field.bits, kind.label, field.default))
    return tuple(table.values())


def given_kinds(kinds: Sequence[NoteKind], cpus: Sequence[Cpu]) -> tuple[NoteKind, ...]:
    """The notes that ``cpus`` have: the first kind, and each of which a register is given that no kind before it holds.

    A kind that hangs on a register's value is among them; whether a CPU has it, that register says.
    """
    table = registers_of(kinds)
    given = {register.note for register in table if any(register.name in cpu.registers for cpu in cpus)}
    return tuple(kind for i, kind in enumerate(kinds) if not i or kind.when is not None or kind.label in given)


def missing_registers(kinds: Sequence[NoteKind], cpu: Cpu) -> tuple[str, ...]:
    """The registers of a CPU's notes that are not given: they would be 0 without notice.

    Args:
        kinds: What :func:`given_kinds` gave.
        cpu: The CPU.
    """
    missing = []
    seen = {PR_PID}
    for kind in kinds:
        if kind.when is not None and not cpu.registers.get(kind.when):
            continue
        for field in kind.fields:
            if field.register not in seen | kind.later and field.register not in cpu.registers:
                missing.append(field.register)
            seen.add(field.register)
    return tuple(missing)


def pack_cpus(
    kinds: Sequence[NoteKind], cpus: Sequence[Cpu], byte_order: ByteOrder, *, by_kind: bool
) -> tuple[Note, ...]:
    """The notes of ``cpus``.

    Args:
        kinds: The notes of one CPU, in order.
        cpus: The CPUs, in order.
        byte_order: Of the notes.
        by_kind: Write all CPUs' notes of a kind before those of the next, rather than CPU after CPU.

    Raises:
        PlanError: A register's name is unknown, its value does not fit, or the note that would hold it is not there.
    """
    table = {register.name: register for register in registers_of(kinds)}
    defaults = {name: register.default for name, register in table.items()}
    first_version = {kind: {f.register for f in kind.fields} - kind.later for kind in kinds if kind.later}
    rows: list[list[Note | None]] = []
    for cpu in cpus:
        _check(cpu, table)
        values = {**defaults, PR_PID: cpu.index + 1, **cpu.registers}
        for kind, names in first_version.items():
            if names <= cpu.registers.keys() and not kind.later & cpu.registers.keys():
                values = {name: value for name, value in values.items() if name not in kind.later}
        absent = [kind for kind in kinds if kind.when is not None and not values[kind.when]]
        _check_held(cpu, kinds, absent)
        rows.append([None if kind in absent else kind.pack(values, byte_order) for kind in kinds])
    groups = zip(*rows, strict=True) if by_kind else rows
    return tuple(note for group in groups for note in group if note is not None)


def unpack_cpus(kinds: Sequence[NoteKind], notes: Sequence[Note], byte_order: ByteOrder) -> tuple[Cpu, ...]:
    """The CPUs that ``notes`` speak of: each note of the first kind is one.

    Notes of other kinds are passed over, and so are those that :func:`odd_notes` names: their CPU lacks the registers.
    Where two notes hold a register, the first one's value counts.
    """
    n_cpus = sum(kinds[0].matches(note) for note in notes)
    total = {kind.label: sum(kind.matches(note) for note in notes) for kind in kinds}
    seen = dict.fromkeys(total, 0)
    cpus: list[dict[str, int]] = [{} for _ in range(n_cpus)]
    for note in notes:
        kind = _kind_of(kinds, note)
        if kind is None or total[kind.label] > n_cpus:
            continue
        seen[kind.label] += 1
        # A note that every CPU has tells by its place whose it is; one that some lack follows its CPU's first.
        at = seen[kind.label] - 1 if total[kind.label] == n_cpus else seen[kinds[0].label] - 1
        if at < 0 or not kind.fits(note):
            continue
        for name, value in kind.unpack(note, byte_order).items():
            cpus[at].setdefault(name, value)
    for index, registers in enumerate(cpus):
        if registers.get(PR_PID) == index + 1:
            del registers[PR_PID]
    return tuple(Cpu(index, registers) for index, registers in enumerate(cpus))


def odd_notes(kinds: Sequence[NoteKind], notes: Sequence[Note]) -> Iterator[str]:
    """One line for each kind of note whose registers cannot be read, or not all of them."""
    n_cpus = sum(kinds[0].matches(note) for note in notes) if kinds else 0
    for kind in kinds:
        found = [note for note in notes if kind.matches(note)]
        odd = [note for note in found if not kind.fits(note)]
        if len(found) > n_cpus:
            yield f"there are {len(found)} {kind.label} notes and {n_cpus} CPUs: their registers are not shown"
        elif odd:
            size = f", not {kind.size}" if kind.size is not None else ""
            yield (
                f"{len(odd)} of {len(found)} {kind.label} notes cannot be read (the first has {len(odd[0].desc)} "
                f"bytes{size}): their registers are not shown"
            )


def recode(kinds: Sequence[NoteKind], notes: Iterable[Note], byte_order: ByteOrder, to: ByteOrder) -> tuple[Note, ...]:
    """``notes`` in another byte order; a note of no known kind, or of another size, stays as it is."""
    recoded = []
    for note in notes:
        kind = _kind_of(kinds, note)
        if kind is not None and kind.fits(note):
            note = kind.pack(kind.unpack(note, byte_order), to)
        recoded.append(note)
    return tuple(recoded)


def _kind_of(kinds: Sequence[NoteKind], note: Note) -> NoteKind | None:
    return next((kind for kind in kinds if kind.matches(note)), None)


def splice(note: Note, offset: int, data: bytes) -> Note:
    """``note`` with the bytes at ``offset`` of its content replaced; as it is where it is too short for them."""
    if offset + len(data) > len(note.desc):
        return note
    return replace(note, desc=note.desc[:offset] + data + note.desc[offset + len(data) :])


def _check(cpu: Cpu, table: Mapping[str, Register]) -> None:
    unknown = [name for name in cpu.registers if name not in table]
    if unknown:
        raise PlanError(
            f"CPU {cpu.index}: unknown register {', '.join(map(repr, unknown))}",
            hint=f"the registers are {' '.join(table)}",
        )
    for name, value in cpu.registers.items():
        bits = table[name].bits
        if not isinstance(value, int) or not 0 <= value < 1 << bits:
            shown = hex(value) if isinstance(value, int) else repr(value)
            raise PlanError(f"CPU {cpu.index}: {name} has {bits} bits, and {shown} does not fit")


def _check_held(cpu: Cpu, kinds: Sequence[NoteKind], absent: Sequence[NoteKind]) -> None:
    held = {field.register for kind in kinds if kind not in absent for field in kind.fields}
    for kind in absent:
        lost = [f.register for f in kind.fields if cpu.registers.get(f.register) and f.register not in held]
        if lost:
            raise PlanError(
                f"CPU {cpu.index}: there is no {kind.label} note to hold {lost[0]}", hint=f"give {kind.when} as well"
            )
