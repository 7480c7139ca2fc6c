"""From what the user names to a source: a path or URL, several, or ``<source name>:<argument>``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from pydump.builtin.files import unpacked_part
from pydump.builtin.flattened import is_flattened
from pydump.builtin.spool import HEAD_SIZE, PACKINGS, Packing
from pydump.builtin.storages import DescriptorStorage, FileStorage
from pydump.builtin.wrapped import unwrapped
from pydump.catalog import known_file
from pydump.engine.live import Input
from pydump.engine.locate import Named, Stored, find_source, find_stored
from pydump.engine.reopen import ReopenFiles
from pydump.engine.unused import refuse_options
from pydump.errors import FormatError, PlanError, SourceError
from pydump.interfaces.backing import Backing
from pydump.interfaces.format import Format, KernelFile, Opened
from pydump.interfaces.image import MemoryImage
from pydump.interfaces.live import LiveGuest
from pydump.options import chosen_options
from pydump.plugins import returned
from pydump.registry import Registry

#: What to do with a file that no format reads.
BARE: Final = (
    "bare memory is read with --arch NAME and raw:PATH@PADDR, "
    "or raw:PATH[0:3G]@0,PATH[3G:]@4G of a PC with more than 3 GiB"
)


def open_source(
    spec: str, registry: Registry, options: Mapping[str, Mapping[str, Any]] | None = None, *, shared: bool = False
) -> Input:
    """Open what ``spec`` names.

    Args:
        spec: A path or URL; ``-`` for standard input; several, separated by commas, for a split dump; or
            ``<source name>:<argument>``. A file of that very name comes first.
        registry: What is installed.
        options: Options by plugin name, then by field.
        shared: The options are for other inputs as well: those of a format that this one is not of are ignored.

    Raises:
        PydumpError: It cannot be opened, for the reason the error gives.
    """
    options = options or {}
    registry.check_options(options)
    found = find_source(spec, registry)
    if isinstance(found, Named):
        source = found.source
        if not shared:
            _refuse_unused(options, registry, source, f"the source is {source.name}")
        opened = source.open(found.argument, chosen_options(source.name, source.Options, options))
        return opened if isinstance(opened, LiveGuest) else returned(opened, MemoryImage, source.open)
    backings: list[Backing] = []
    try:
        for stored in found:
            backings.append(_open_backing(stored, registry, options))
        format_ = _detect(backings, registry)
        if len(backings) > 1 and not format_.splits:
            raise PlanError(f"a {format_.name} dump is one file, {len(backings)} are named")
        if not shared:
            _refuse_unused(options, registry, format_, f"{backings[0].path} is {format_.name}")
        return _open(format_, found[0], backings, registry, options)
    except BaseException:
        for backing in backings:
            backing.close()
        raise


def _open(
    format_: type[Format],
    first: Stored,
    backings: list[Backing],
    registry: Registry,
    options: Mapping[str, Mapping[str, Any]],
) -> MemoryImage:
    """Open with a format; where it fails and the file is known to be something else, say what.

    Args:
        format_: The format.
        first: Where the first file is.
        backings: The files. What the format opens beside them is added.
        registry: What is installed.
        options: Options by plugin name, then by field.
    """
    files = tuple(backings)
    siblings: dict[str, Backing] = {}
    copies: list[Backing] = []

    def sibling(name: str) -> Backing | None:
        beside = first.beside(name)
        if beside is None:
            return None
        try:
            backings.append(_open_backing(beside, registry, options, lambda head: None))
        except SourceError:
            return None
        siblings[name] = backings[-1]
        return backings[-1]

    def unpacked_from(file: Backing, offset: int) -> Backing:
        backings.append(unpacked_part(file, offset, packings(registry)))
        copies.append(backings[-1])
        return backings[-1]

    reading = chosen_options(format_.name, format_.ReaderOptions, options)
    try:
        image = format_.open(Opened(files, sibling, registry.decompressors(), unpacked_from, reading))
        returned(image, MemoryImage, format_.open)
    except FormatError:
        seen = known_file(_head(backings[0]))
        if seen is None or not seen.name:
            raise
        raise FormatError(backings[0].path, f"it is {seen.name}, which is not read", hint=seen.hint) from None
    image.recipe = None if copies else ReopenFiles.of(format_, files, siblings, reading)
    return image


def _refuse_unused(
    options: Mapping[str, Mapping[str, Any]], registry: Registry, chosen: type[Any], instead: str
) -> None:
    """Refuse options for reading of plugins other than the chosen one: they would say nothing."""
    refuse_options(options, "source", (cls for cls in registry.sources() if cls is not chosen), instead)
    others = (cls for cls in registry.formats() if cls is not chosen)
    refuse_options(options, "format", others, instead, reading=True)


def packings(registry: Registry) -> tuple[Packing, ...]:
    """The kinds of compressed file that can be unpacked."""
    packed = [cls for cls in registry.compressors() if cls.file_magic]
    return PACKINGS + tuple(Packing(cls.name, cls.file_magic, cls().unpacker) for cls in packed)


def _open_backing(
    stored: Stored,
    registry: Registry,
    options: Mapping[str, Mapping[str, Any]],
    accept: Callable[[bytes], None] | None = None,
) -> Backing:
    storage, url = stored.storage, stored.url
    label = FileStorage.path(url) if issubclass(storage, FileStorage) else url

    def known(head: bytes) -> None:
        if not is_flattened(head):
            _format_of([head], [label], registry)

    chosen, packed = chosen_options(storage.name, storage.Options, options), packings(registry)
    if issubclass(storage, FileStorage | DescriptorStorage):  # what flows is looked at before it is copied
        backing = storage.reader(url, chosen, accept=accept or known, packings=packed)
    else:
        backing = returned(storage.reader(url, chosen), Backing, storage.reader)
    return unwrapped(backing, accept or known, packed)


def open_kernel(path: str, registry: Registry) -> KernelFile:
    """Open a kernel's own file.

    Raises:
        PydumpError: It cannot be opened, or holds no kernel.
    """
    backing = _open_backing(find_stored(path, registry), registry, {})
    try:
        return _detect([backing], registry).kernel(backing)
    finally:
        backing.close()


def _detect(backings: list[Backing], registry: Registry) -> type[Format]:
    """The one format that all the files are of."""
    heads = [_head(backing) for backing in backings]
    return _format_of(heads, [backing.path for backing in backings], registry)


def _head(backing: Backing) -> bytes:
    return backing.read(0, min(HEAD_SIZE, backing.size))


def _format_of(heads: list[bytes], paths: list[str], registry: Registry) -> type[Format]:
    """The one format of the files ``paths``, which begin with ``heads``."""
    paths = ["standard input" if path == "-" else path for path in paths]
    if b"" in heads:
        raise SourceError(f"{paths[heads.index(b'')]} is empty")
    found = [cls for cls in registry.formats() if all(cls.detect(head) for head in heads)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(cls.name for cls in found)
        raise FormatError(paths[0], f"more than one format claims it: {names}", hint="uninstall one of their plugins")
    each = [next((cls.name for cls in registry.formats() if cls.detect(head)), None) for head in heads]
    if None not in each:
        kinds = ", ".join(f"{path} is {name}" for path, name in zip(paths, each, strict=True))
        raise PlanError(f"the files are of different formats: {kinds}", hint="name the parts of one dump")
    unknown = each.index(None)
    names = ", ".join(cls.name for cls in registry.formats() if cls.reads()) or "none"
    seen = known_file(heads[unknown])
    if seen is not None and seen.name:
        raise FormatError(paths[unknown], f"it is {seen.name}, which is not read", hint=seen.hint)
    raise FormatError(
        paths[unknown],
        f"no installed format reads it; installed: {names}",
        hint=seen.hint if seen else BARE,
    )
