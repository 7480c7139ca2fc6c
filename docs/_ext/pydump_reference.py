"""Writes the parts of the reference that follow from the code: commands and options, struct layouts, architectures.

They are written as Markdown into ``reference/_generated`` before anything is read, and included from the pages.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: C types of the codes of ``struct``.
C_TYPES = {"B": "u8", "H": "u16", "I": "u32", "Q": "u64", "b": "s8", "h": "s16", "i": "s32", "q": "s64"}


def setup(app: Any) -> dict[str, Any]:
    """What Sphinx calls."""
    app.connect("builder-inited", lambda app: write(Path(app.srcdir) / "reference" / "_generated"))
    app.connect("autodoc-process-docstring", leave_out)
    return {"version": "1", "parallel_read_safe": True}


def leave_out(app: Any, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """Leave out what Python says of a named tuple's fields, "Alias for field number 0": the class describes them."""
    if lines and lines[0].startswith("Alias for field number"):
        lines.clear()


def write(directory: Path) -> None:
    """Write all of it."""
    directory.mkdir(exist_ok=True)
    pages = {"commands": commands(), "architectures": architectures(), "plugins": plugins()}
    pages |= {f"layout-{name}": layouts(classes) for name, classes in structs().items()}
    for name, lines in pages.items():
        text = "\n".join(lines) + "\n"
        path = directory / f"{name}.md"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def commands() -> Iterator[str]:
    """Every command with its arguments and options, those of the plugins included."""
    for name, command, params in command_tree():
        yield f"### pydump {name}".rstrip()
        yield ""
        arguments = [p for p in params if p.param_type_name == "argument"]
        words = " ".join(p.metavar if p.required else f"[{p.metavar}]" for p in arguments)
        rest = "[OPTIONS] COMMAND …" if not name else f"[OPTIONS] {words}".rstrip()
        yield f"`pydump {name} {rest}`".replace("  ", " ")
        yield ""
        yield " ".join((command.help or "").split("\n\n")[0].split())
        yield ""
        for paragraph in (command.help or "").split("\n\n")[1:]:
            yield " ".join(paragraph.split())
            yield ""
        for param in arguments:
            yield f"*{param.metavar}*"
            yield f": {param.help}"
            yield ""
        for param in params:
            if param.param_type_name != "option" or getattr(param, "hidden", False):
                continue
            flags = ", ".join(f"`{flag}`" for flag in (*param.opts, *param.secondary_opts))
            yield f"{flags}{value_of(param)}"
            yield f": {help_of(param)}"
            yield ""


def value_of(param: Any) -> str:
    """What an option takes, as the man page shows it."""
    if param.is_flag:
        return ""
    choices = getattr(param.type, "choices", None)
    if choices:
        return " " + "|".join(f"*{choice}*" for choice in choices)
    return f" *{(param.metavar or param.type.name).upper()}*"


def help_of(param: Any) -> str:
    """What an option is for, and what holds where it is not given."""
    text = param.help or ""
    default = getattr(param.default, "value", param.default)
    if param.is_flag or default in (None, "") or "Default:" in text:
        return text
    return f"{text} Default: {default}."


def command_tree() -> Iterator[tuple[str, Any, list[Any]]]:
    """``(name, command, parameters)``; the first is ``pydump`` itself, with no name."""
    import typer

    from pydump.cli.program import program

    group = program()
    for name, command in [("", group), *sorted(group.commands.items())]:
        params = command.get_params(typer.Context(command))
        yield name, command, [param for param in params if param.name != "help"]


def structs() -> dict[str, list[type]]:
    """Declared structs, by the page that shows them."""
    import pydump.layout.elf as elf
    import pydump.layout.lime as lime
    import pydump.layout.windows as windows
    import pydump_format_kdump.layout as kdump
    import pydump_format_vmware.tags as vmware
    import pydump_format_windmp.layout as windmp
    from pydump.builtin import flattened

    return {
        "elf": [elf.Elf64Ehdr, elf.Elf64Phdr, elf.Elf64Shdr, elf.Elf32Ehdr, elf.Elf32Phdr, elf.Elf32Shdr, elf.Nhdr],
        "kdump": [
            kdump.DiskDumpHeader64, kdump.DiskDumpHeader32, kdump.KdumpSubHeader64, kdump.KdumpSubHeader32,
            kdump.KdumpSubHeader32Aligned, kdump.PageDesc,
        ],
        "lime": [lime.RangeHeader],
        "vmware": [vmware.CptDumpHeader, vmware.CptGroupDesc, vmware.BlockHeader],
        "windmp": [
            windows.DumpHeader64, windows.DumpHeader32, windmp.PhysicalMemoryDescriptor64, windmp.PhysicalMemoryRun64,
            windmp.PhysicalMemoryDescriptor32, windmp.PhysicalMemoryRun32, windmp.SummaryDump, windmp.RangeDump,
        ],
        "flattened": [flattened.MakedumpfileHeader, flattened.MakedumpfileDataHeader],
    }  # fmt: skip


def layouts(classes: list[type]) -> Iterator[str]:
    """A table for each struct: offset, size, field, type."""
    from pydump.layout.struct import _codes

    for cls in classes:
        yield f"### {cls.__name__}"
        yield ""
        yield " ".join((cls.__doc__ or "").split())
        yield ""
        yield "| offset | bytes | field | type |"
        yield "| ---: | ---: | --- | --- |"
        at = 0
        for name, code in _codes(cls):
            size = struct.calcsize(f"<{code}")
            kind = C_TYPES.get(code, f"char[{size}]")
            yield f"| {at} | {size} | `{name}` | {kind} |"
            at += size
        yield f"| {at} | | *end* | |"
        yield ""


def architectures() -> Iterator[str]:
    """The facts of each architecture, and the notes of a CPU."""
    from pydump.registry import installed

    yield "| name | e_machine | byte order | bits | page sizes | notes of a CPU (type, bytes) |"
    yield "| --- | ---: | --- | ---: | --- | --- |"
    for cls in installed().arches():
        order = "either" if cls.bi_endian else cls.byte_order
        sizes = ", ".join(str(size) for size in cls.page_sizes)
        notes = ", ".join(
            f"{k.label} ({k.type:#x}, {k.size if k.size is not None else 'varies'})" for k in cls.note_kinds
        )
        yield f"| `{cls.name}` | {cls.machine} | {order} | {cls.elf_class} | {sizes} | {notes} |"


def plugins() -> Iterator[str]:
    """What each first-party plugin provides."""
    from pydump.cli.render import halves
    from pydump.registry import installed

    yield "| plugin | distribution | provides |"
    yield "| --- | --- | --- |"
    for plugin in installed().plugins:
        provides = ", ".join(f"{role} `{cls.name}`{halves(cls)}" for role, cls in plugin.classes)
        yield f"| `{plugin.name}` | `{plugin.distribution}` | {provides} |"
