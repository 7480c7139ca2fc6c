"""What ``info`` and ``--arch`` print: facts of a dump, of an address, of an architecture."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

from pydump.cli.console import line
from pydump.cli.render import columns, print_json, size, table, wrapped
from pydump.engine.cpus import cpus_to_json
from pydump.interfaces.image import KnowsAbsent
from pydump.layout.windows import LIVE_SYSTEM_DUMP
from pydump.registry import installed

if TYPE_CHECKING:
    from pydump.engine.dump import Dump
    from pydump.engine.symbols import Symbols
    from pydump.interfaces.arch import Arch
    from pydump.interfaces.image import MemoryImage
    from pydump.model.findings import AddressReport
    from pydump.model.guest import Guest
    from pydump.model.windows import WindowsFacts
    from pydump.registry import Registry


def info(opened: Dump, path: str, symbols: Symbols | None = None, *, notes: bool) -> None:
    """What a vmcore is."""
    guest = opened.known
    image = opened.image
    excluded, lost = absent_sizes(image)
    rows = [("file", path), *image.describe()]
    length = _file_size(path)
    if length is not None:
        rows.append(("size", size(length)))
    rows += _who(guest)
    name = None if guest.arch else opened.machine_name()  # an architecture says it; naming it takes a while
    if name:
        rows.append(("machine", f"{guest.machine} ({name})"))
    if symbols is not None:
        how = f"the {symbols.checked} says so" if symbols.checked else "nothing in the dump confirms it"
        rows.append(("vmlinux", f"of this kernel: {how}; moved by {symbols.shift:#x}"))
    rows.append(
        ("memory", f"{size(guest.memory.size)} in {len(guest.memory)} block{'' if len(guest.memory) == 1 else 's'}")
    )
    rows += [
        ("", f"{block.paddr:#014x} .. {block.end:#014x}  {size(block.size)}") for block in guest.memory.blocks[:16]
    ]
    if len(guest.memory) > 16:
        rows.append(("", f"… and {len(guest.memory) - 16} more"))
    if excluded:
        rows.append(("left out", f"{size(excluded)} (dump level {guest.dump_level})"))
    if image.more_lost():
        rows.append(("lost", "how much is not known: the file does not state where all RAM is"))
    elif lost:
        rows.append(("lost", size(lost)))
    rows.append(("CPUs", str(guest.n_cpus or 0)))
    rows.append(("notes", f"{len(guest.notes)}" if guest.notes else "none"))
    text = guest.vmcoreinfo
    rows.append(("vmcoreinfo", f"{len(text.keys())} entries" if text else "none; --vmcoreinfo looks for one in memory"))
    table(rows)
    if notes:
        for note in guest.notes:
            name = opened.note_type_name(note)
            said = f"  {note.name:<10} type {note.type:#07x}  {len(note.desc)} bytes"
            fits = name is None or columns() is None or len(said) + 2 + len(name) <= (columns() or 0)
            line(f"{said}  {name}" if name and fits else said)
            if name and not fits:
                line(f"             {name}")
        for cpu in opened.cpus:
            line(f"CPU {cpu.index}" if cpu.registers else f"CPU {cpu.index}: its registers cannot be read")
            cells = [f"{name:>10} {value:#018x}" for name, value in cpu.registers.items()]
            width = columns()
            across = 3 if width is None else max(1, min(3, (width + 1) // 32))
            for at in range(0, len(cells), across):
                line("  " + "".join(f"{cell:<32}" for cell in cells[at : at + across]).rstrip())


def absent_sizes(image: MemoryImage) -> tuple[int, int | None]:
    """Bytes that were left out, and that are lost; None where it takes long to count those."""
    if isinstance(image, KnowsAbsent):
        return image.absent_sizes()
    return image.excluded().size, image.unreadable().size


def _who(guest: Guest) -> list[tuple[str, str]]:
    """Rows that say whose memory it is, as far as that is known."""
    order = f", {guest.byte_order}-endian" if guest.byte_order else ""
    # QEMU may write a 64-bit file for a 32-bit guest.
    width = installed().arch(guest.arch).elf_class if guest.arch else guest.elf_class
    bits = f", {width}-bit" if width else ""
    rows = [("guest", f"{guest.arch or 'unknown architecture'}{order}{bits}")]
    uts, text = guest.utsname, guest.vmcoreinfo
    release, version = (value if value != "unknown" else "" for value in (uts.release, uts.version))
    system = "Windows" if guest.windows else "Linux"
    rows.append(("kernel", f"{system} {release} {version}".strip() if release or guest.windows else "unknown"))
    if guest.windows:
        code, *parameters = guest.windows.bugcheck
        shown = ", ".join(f"{value:#x}" for value in parameters)
        stopped = "none: the system was running" if code in (0, LIVE_SYSTEM_DUMP) else f"{code:#x} ({shown})"
        rows.append(("stop error", stopped))
    if uts.nodename:
        rows.append(("host name", uts.nodename))
    for label, key in (("build id", "BUILD-ID"), ("KERNELOFFSET", "KERNELOFFSET")):
        value = text.get(key) if text else None
        if value:
            rows.append((label, value if label == "build id" else f"0x{value}"))
    if guest.page_size is not None:
        rows.append(("page size", f"{guest.page_size} bytes"))
    if guest.phys_base is not None:
        rows.append(("phys_base", f"{guest.phys_base:#x}"))
    return rows


def _file_size(path: str) -> int | None:
    """Bytes of the file, or of the parts, that ``path`` names; None where it names no file."""
    parts = [path] if os.path.exists(path) else path.split(",")
    try:
        found = [os.stat(part) for part in parts]
    except OSError:
        return None
    return sum(one.st_size for one in found) if all(stat.S_ISREG(one.st_mode) for one in found) else None


def _windows_json(facts: WindowsFacts) -> dict[str, Any]:
    return {
        "bits": facts.bits,
        "build": facts.build,
        "directory_table_base": facts.directory_table_base,
        "kd_debugger_data_block": facts.kd_debugger_data_block,
        "bugcheck": list(facts.bugcheck),
    }


def info_json(opened: Dump, path: str, symbols: Symbols | None, *, notes: bool) -> dict[str, Any]:
    """What a vmcore is, for a program."""
    guest = opened.known
    uts = guest.utsname
    excluded, lost = absent_sizes(opened.image)
    result: dict[str, Any] = {
        "path": path,
        "file_size": _file_size(path),
        "source": dict(opened.image.describe()),
        "arch": guest.arch,
        "machine": guest.machine,
        "byte_order": guest.byte_order,
        "elf_class": guest.elf_class,
        "page_size": guest.page_size,
        "phys_base": guest.phys_base,
        "utsname": {
            name: getattr(uts, name) for name in ("sysname", "nodename", "release", "version", "machine", "domainname")
        },
        "build_id": guest.vmcoreinfo.get("BUILD-ID") if guest.vmcoreinfo else None,
        "kernel_offset": guest.vmcoreinfo.hexadecimal("KERNELOFFSET") if guest.vmcoreinfo else None,
        "windows": _windows_json(guest.windows) if guest.windows else None,
        "n_cpus": guest.n_cpus,
        "memory": [{"paddr": block.paddr, "size": block.size} for block in guest.memory],
        "excluded_size": excluded,
        "unreadable_size": None if opened.image.more_lost() else lost,
        "dump_level": guest.dump_level,
        "has_vmcoreinfo": guest.vmcoreinfo is not None,
        "warnings": list(opened.warnings),
    }
    if symbols is not None:
        result["vmlinux"] = {"build_id": symbols.build_id, "shift": symbols.shift, "checked": symbols.checked}
    if notes:
        result["notes"] = [{"name": n.name, "type": n.type, "desc": n.desc.hex()} for n in guest.notes]
        result["cpus"] = cpus_to_json(opened.cpus)
    return result


def address(found: AddressReport) -> None:
    """What a dump has of an address."""
    rows = [] if found.vaddr is None else [("vaddr", f"{found.vaddr:#x}")]
    rows += [] if found.paddr is None else [("paddr", f"{found.paddr:#x}")]
    rows.append(("state", found.state + (", all zeros" if found.zero else "")))
    if found.classes is not None:
        rows.append(("class", ", ".join(found.classes) or "none that a dump level leaves out"))
    if found.offset is not None:
        packed = "" if found.compression == "none" else f", compressed with {found.compression}"
        rows.append(("in the file", f"{found.size} bytes at {found.offset:#x} of {found.path}{packed}"))
    table(rows)


def arch(cls: type[Arch], registry: Registry, *, as_json: bool) -> None:
    """The dump facts of an architecture."""
    order = cls.byte_order
    if as_json:
        facts = {
            "name": cls.name,
            "machine": cls.machine,
            "byte_order": order,
            "elf_class": cls.elf_class,
            "page_sizes": list(cls.page_sizes),
            "uts_machine": cls.uts_machine(order),
            "notes": [{"label": k.label, "name": k.name, "type": k.type, "size": k.size} for k in cls.note_kinds],
            "registers": [{"name": r.name, "bits": r.bits, "note": r.note} for r in cls.registers],
        }
        print_json(facts)
        return
    table(
        [
            ("arch", cls.name),
            ("machine", f"{cls.machine} ({registry.machine_name(cls.machine) or 'ELF e_machine'})"),
            ("byte order", f"{order}-endian"),
            ("class", f"{cls.elf_class}-bit"),
            ("page size", ", ".join(f"{n} bytes" for n in cls.page_sizes)),
            ("uname -m", cls.uts_machine(order)),
        ]
    )
    line("notes of a CPU")
    for kind in cls.note_kinds:
        length = f"{kind.size} bytes" if kind.size is not None else "varies"
        named = registry.note_type_name(kind.name, kind.type)
        line(f"  {kind.label:<12} {kind.name:<6} type {kind.type:#07x}  {length}{f'  {named}' if named else ''}")
        names = [r.name for r in cls.registers if r.note == kind.label]
        width = columns()
        for at in range(0, len(names), 12):
            some = " ".join(names[at : at + 12])
            for piece in [some] if width is None else wrapped(some, width - 4):
                line(f"    {piece}")
