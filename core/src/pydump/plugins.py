"""Find, load, check and isolate plugins."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Any, TypeVar

import pluggy

import pydump.hookspecs
from pydump.errors import PluginError, plugin_error
from pydump.interfaces.arch import Arch
from pydump.interfaces.compressor import Compressor
from pydump.interfaces.executor import Executor
from pydump.interfaces.filter import Filter
from pydump.interfaces.format import CARRIES, Format
from pydump.interfaces.source import Source
from pydump.interfaces.storage import Storage
from pydump.model.request import OPTIONS, flags
from pydump.options import NoOptions, option_fields, options_of

T = TypeVar("T")

#: The entry-point group.
GROUP = "pydump"
CORE = "pydump-core"

#: Flags of ``pydump dump`` that are not of its request, and those that stand before any command or after it.
FLAGS = "--detach --help --json --nice --progress --quiet --verbose".split()

#: What no plugin may claim: claim to whose it is.
RESERVED = {"compressor name 'none'": "core"} | {
    f"flag {flag}": "core" for flag in (*FLAGS, *(flags(one)[0] for one in OPTIONS))
}

#: Role to the hook that registers its classes and the class they derive from.
ROLES: dict[str, tuple[str, type]] = {
    "arch": ("pydump_register_arches", Arch),
    "format": ("pydump_register_formats", Format),
    "compressor": ("pydump_register_compressors", Compressor),
    "source": ("pydump_register_sources", Source),
    "storage": ("pydump_register_storages", Storage),
    "filter": ("pydump_register_filters", Filter),
    "executor": ("pydump_register_executors", Executor),
}


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """One plugin, working or not.

    Attributes:
        name: Its entry point's name.
        distribution: What to ``pip install``, or "" where that cannot be told.
        version: The distribution's version.
        classes: ``(role, class)`` of all it registered.
        error: Why it does not work, or None.
    """

    name: str
    distribution: str
    version: str
    classes: tuple[tuple[str, type[Any]], ...] = ()
    error: str | None = None


def load(
    *, builtin: Iterable[tuple[str, object]] = (), installed: bool = True, strict: bool | None = None
) -> tuple[PluginInfo, ...]:
    """Load every plugin of the group; a broken one is recorded, not raised.

    Args:
        builtin: ``(name, plugin)`` pairs that need no entry point; they come first.
        installed: Look for entry points as well.
        strict: Raise at the first broken plugin. Default: whether PYDUMP_STRICT_PLUGINS is "1".

    Raises:
        PluginError: A plugin is broken and ``strict`` is set.
    """
    entries = metadata.entry_points(group=GROUP) if installed else ()
    if strict is None:
        strict = os.environ.get("PYDUMP_STRICT_PLUGINS") == "1"
    manager = pluggy.PluginManager("pydump")
    manager.add_hookspecs(pydump.hookspecs)
    taken = dict(RESERVED)
    core_version = _version(CORE)
    infos = [_admit(manager, taken, name, plugin, CORE, core_version) for name, plugin in builtin]
    for entry in sorted(entries, key=lambda e: e.name):
        stated = entry.dist.metadata if entry.dist else None  # each access parses the file
        distribution, version = (stated["Name"], stated["Version"]) if stated else ("", "")
        try:
            if stated:
                _check_core_version(distribution, stated.get_all("Requires-Dist") or (), core_version)
            plugin = entry.load()
            infos.append(_admit(manager, taken, entry.name, plugin, distribution, version))
        except Exception as error:  # whatever a third party's import does, the others still work
            reason = str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
            infos.append(PluginInfo(entry.name, distribution, version, error=" ".join(reason.split())))
    for info in infos:
        if info.error and strict:
            raise PluginError(info.name, info.error, hint=f"pip uninstall {info.distribution or info.name}, or fix it")
    return tuple(infos)


def _admit(
    manager: pluggy.PluginManager,
    taken: dict[str, str],
    name: str,
    plugin: object,
    distribution: str,
    version: str,
) -> PluginInfo:
    """Register a plugin, call its hooks and check what they return."""
    try:
        manager.register(plugin, name)
        manager.check_pending()
        classes = []
        for role, (hook, base) in ROLES.items():
            for impl in getattr(manager.hook, hook).get_hookimpls():
                if impl.plugin_name == name:
                    classes += [(role, _checked(role, base, cls)) for cls in impl.function()]
        claimed: dict[str, str] = {}
        for role, cls in classes:
            for claim in claims(role, cls):
                owner = taken.get(claim) or claimed.get(claim)
                if owner:
                    raise PluginError(name, f"the {claim} is taken by plugin {owner}")
                claimed[claim] = name
        if not classes:
            raise PluginError(name, "it registers nothing")
        taken.update(claimed)
    except Exception as error:
        if manager.get_plugin(name) is plugin:  # and not another one of this name
            manager.unregister(name=name)
        reason = error.message.removeprefix(f"plugin {name}: ") if isinstance(error, PluginError) else ""
        reason = reason or f"{type(error).__name__}: {error}"
        return PluginInfo(name, distribution, version, error=" ".join(reason.split()))
    return PluginInfo(name, distribution, version, tuple(classes))


def words(role: str, cls: type[Any]) -> tuple[str, ...]:
    """What users can call ``cls``: its name and, of an architecture or a format, its aliases."""
    aliases = cls.aliases if role in ("arch", "format") else ()
    return tuple(dict.fromkeys([cls.name, *aliases]))


def claims(role: str, cls: type[Any]) -> Iterator[str]:
    """What ``cls`` claims for itself alone: its words within its role, classes of pages, and the flags of its options.

    Raises:
        ValueError: A flag is invalid, or it declares options that nobody would read.
    """
    for word in dict.fromkeys(word.lower() for word in words(role, cls)):
        yield f"{role} name {word!r}"
    if role == "filter":
        for name in cls.classes:
            yield f"class {name!r}"
    if role == "arch" and hasattr(cls, "Options"):
        raise ValueError(f"{role} {cls.name} declares Options, which this role does not have")
    fields = [field for half in options_of(cls) for field in option_fields(half)]
    if any(field.alias for field in option_fields(getattr(cls, "ReaderOptions", NoOptions))):
        raise ValueError(f"a reader option of {role} {cls.name} has an alias: it stands beside every command's flags")
    for declared in fields:
        for flag in "/".join(declared.flags_of(cls.name)).split("/"):
            if not re.fullmatch("--[a-z0-9]+(-[a-z0-9]+)*", flag):
                raise ValueError(f"option {declared.name} of {role} {cls.name} has the invalid flag {flag!r}")
            yield f"flag {flag}"


def lacking(what: object, base: type) -> list[str]:
    """The attributes that ``base`` asks for and gives no value, and ``what`` does not have."""
    wanted = (name for cls in base.__mro__ for name in inspect.get_annotations(cls))
    return [name for name in wanted if not hasattr(what, name)]


def returned(what: T, base: type, method: Callable[..., object]) -> T:
    """What a method of a plugin returned, if it is what the interface asks for.

    Args:
        what: What it returned.
        base: The interface.
        method: The method.

    Raises:
        PluginError: It is something else, or lacks an attribute.
    """
    if not isinstance(what, base):
        article = "an" if base.__name__[0] in "AEIOU" else "a"
        said = f"{method.__qualname__} returns {type(what).__name__}, not {article} {base.__name__}"
        raise plugin_error(method.__module__, said)
    if missing := lacking(what, base):
        raise plugin_error(type(what).__module__, f"{type(what).__name__} has no {', '.join(missing)}")
    return what


def _checked(role: str, base: type, cls: Any) -> type[Any]:
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise TypeError(f"{cls!r} is no {base.__name__} class")
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(getattr(cls, "__abstractmethods__", ())))
        raise TypeError(f"{role} class {cls.__name__} does not implement {missing}")
    if absent := lacking(cls, base):
        raise TypeError(f"{role} class {cls.__name__} has no {', '.join(absent)}")
    if not isinstance(getattr(cls, "name", None), str):
        raise TypeError(f"{role} class {cls.__name__} has a name that is not text")
    if issubclass(cls, Format):
        _check_halves(cls)
    return cls


def _check_halves(cls: type[Format]) -> None:
    """Refuse a format that does nothing, or whose files nobody would find."""
    if not cls.reads() and not cls.writes():
        raise TypeError(f"format class {cls.__name__} implements neither open nor writer")
    if cls.reads() and not cls.detects():
        raise TypeError(f"format class {cls.__name__} does not implement detect, so that no file is opened with it")
    unknown = cls.carries - CARRIES
    if unknown:
        raise TypeError(f"format class {cls.__name__} carries {', '.join(sorted(unknown))}, which is not known")


def _check_core_version(distribution: str, requires: Iterable[str], core_version: str) -> None:
    """Refuse a plugin whose distribution asks for another core than this one."""
    wanted = [text for text in requires if text.startswith(CORE)]
    if all(text == f"{CORE}=={core_version}" for text in wanted):  # packaging takes a while to load
        return
    from packaging.requirements import Requirement

    for text in wanted:
        requirement = Requirement(text)
        if requirement.name == CORE and not requirement.specifier.contains(core_version, prereleases=True):
            raise PluginError(
                distribution,
                f"it needs {CORE}{requirement.specifier}, this is {core_version}",
            )


@cache
def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "0"
