"""Name to class, per role."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple, TypeVar

from pydump.catalog import distribution_of
from pydump.errors import PlanError, UnknownPluginError
from pydump.interfaces.arch import Arch
from pydump.interfaces.compressor import Compressor
from pydump.interfaces.executor import Executor
from pydump.interfaces.filter import Filter
from pydump.interfaces.format import Decompressors, Format
from pydump.interfaces.source import Source
from pydump.interfaces.storage import Storage
from pydump.options import option_fields, options_of, with_values
from pydump.plugins import PluginInfo, load, words

T = TypeVar("T")


class FormatChoice(NamedTuple):
    """A format as it was asked for, with what an alias implies.

    Attributes:
        format: The class.
        compression: The compressor that the name implies ("kdump-lzo"), or None.
    """

    format: type[Format]
    compression: str | None = None


@dataclass(frozen=True, slots=True)
class Registry:
    """What is installed.

    Attributes:
        plugins: Every plugin, the broken ones with their reason.
    """

    plugins: tuple[PluginInfo, ...]
    _classes: dict[str, dict[str, Any]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        classes: dict[str, dict[str, Any]] = {}
        for plugin in self.plugins:
            for role, cls in plugin.classes:
                classes.setdefault(role, {})[cls.name] = cls
        object.__setattr__(self, "_classes", classes)

    @property
    def broken(self) -> tuple[PluginInfo, ...]:
        """The plugins that do not work."""
        return tuple(plugin for plugin in self.plugins if plugin.error)

    def names(self, role: str) -> tuple[str, ...]:
        """The names that ``role`` has, sorted."""
        return tuple(sorted(self._classes.get(role, {})))

    def words(self, role: str) -> tuple[str, ...]:
        """What users can say for ``role``: names, aliases, and what stands for none of them, sorted."""
        known = {word for cls in self._classes.get(role, {}).values() for word in words(role, cls)}
        return tuple(sorted(known | {"none"} if role == "compressor" else known))

    def arches(self) -> tuple[type[Arch], ...]:
        """All architectures."""
        return tuple(self._classes.get("arch", {}).values())

    def formats(self) -> tuple[type[Format], ...]:
        """All formats."""
        return tuple(self._classes.get("format", {}).values())

    def machine_name(self, machine: int) -> str | None:
        """What a format calls an ELF e_machine, or None."""
        return next((name for cls in self.formats() if (name := cls.machine_name(machine))), None)

    def note_type_name(self, name: str, type_: int) -> str | None:
        """What a format calls the type of a note, or None."""
        return next((found for cls in self.formats() if (found := cls.note_type_name(name, type_))), None)

    def compressors(self) -> tuple[type[Compressor], ...]:
        """All compressors."""
        return tuple(self._classes.get("compressor", {}).values())

    def sources(self) -> tuple[type[Source], ...]:
        """All sources."""
        return tuple(self._classes.get("source", {}).values())

    def filters(self) -> tuple[type[Filter], ...]:
        """All filters."""
        return tuple(self._classes.get("filter", {}).values())

    def storages(self) -> tuple[type[Storage], ...]:
        """All storages."""
        return tuple(self._classes.get("storage", {}).values())

    def arch(self, name: str) -> type[Arch]:
        """The architecture called ``name`` or, in any case of letters, one of its aliases.

        Raises:
            UnknownPluginError: No plugin has it.
        """
        for cls in self.arches():
            if name == cls.name or name.lower() in cls.aliases:
                return cls
        cls_: type[Arch] = self._get("arch", name)
        return cls_

    def format(self, name: str) -> FormatChoice:
        """The format called ``name``, or what the alias ``name`` stands for.

        Raises:
            UnknownPluginError: No plugin has it. The error names the formats that can be written.
        """
        for cls in self.formats():
            implied = cls.aliases.get(name)
            if implied is not None:
                return FormatChoice(cls, **implied)
        return FormatChoice(self._get("format", name, tuple(cls.name for cls in self.formats() if cls.writes())))

    def compressor(self, name: str, options: dict[str, Any] | None = None) -> Compressor:
        """An instance of the compressor ``name``.

        Raises:
            UnknownPluginError: No plugin has it.
            PlanError: An option is unknown or out of range.
        """
        cls: type[Compressor] = self._get("compressor", name)
        return cls(with_values(name, cls.Options(), options or {}))

    def source(self, name: str) -> type[Source]:
        """The source called ``name``.

        Raises:
            UnknownPluginError: No plugin has it.
        """
        cls: type[Source] = self._get("source", name)
        return cls

    def storage(self, name: str) -> type[Storage]:
        """The storage called ``name``.

        Raises:
            UnknownPluginError: No plugin has it.
        """
        cls: type[Storage] = self._get("storage", name)
        return cls

    def executors(self) -> tuple[type[Executor], ...]:
        """All executors."""
        return tuple(self._classes.get("executor", {}).values())

    def executor(self, name: str) -> type[Executor]:
        """The executor called ``name``.

        Raises:
            UnknownPluginError: No plugin has it.
        """
        cls: type[Executor] = self._get("executor", name)
        return cls

    def check_options(self, options: Mapping[str, Mapping[str, Any]]) -> None:
        """Refuse options that no plugin has.

        Raises:
            PlanError: No plugin whose options are known has that name, or none of them has that option.
        """
        roles = ("compressor", "executor", "filter", "format", "source", "storage")
        known = {name for role in roles for name in self.names(role)}
        unknown = sorted(set(options) - known)
        if unknown:
            raise PlanError(
                f"options for {unknown[0]!r}, which is not installed", hint=f"available: {', '.join(sorted(known))}"
            )
        for name, values in options.items():
            classes = [self._classes[role][name] for role in roles if name in self.names(role)]
            declared = [field.name for cls in classes for half in options_of(cls) for field in option_fields(half)]
            for option in values:
                if option not in declared:
                    listed = ", ".join(declared) or "none"
                    raise PlanError(f"{name} has no option {option!r}", hint=f"available: {listed}")

    def install_hint(self, role: str, name: str) -> str:
        """What to do about a plugin that is not there."""
        distribution = distribution_of(role, name)
        return f"pip install {distribution}" if distribution else "pydump plugins shows what is installed"

    def decompressors(self) -> Decompressors:
        """How a format's reader gets its compressors."""
        return _Decompressors(self)

    def _get(self, role: str, name: str, available: tuple[str, ...] | None = None) -> Any:
        """The class called ``name``. ``available`` are the names that the error lists; default: all of the role."""
        known = self._classes.get(role, {})
        if name in known:
            return known[name]
        distribution = distribution_of(role, name)
        broken = next((p for p in self.broken if p.name == f"{role}-{name}" or p.distribution == distribution), None)
        hint = self.install_hint(role, name)
        if broken:
            hint = f"it is installed but broken: {broken.error}"
        others = ("none",) if role == "compressor" else ()
        listed = self.names(role) + others if available is None else available
        raise UnknownPluginError(role, name, listed, hint=hint)


class _Decompressors(Decompressors):
    def __init__(self, registry: Registry) -> None:
        self.registry = registry

    def __call__(self, name: str) -> Compressor:
        return self.registry.compressor(name)


def registry_of(plugins: Iterable[tuple[str, object]]) -> Registry:
    """A registry of these plugin objects alone, for tests; a broken one raises."""
    return Registry(load(builtin=plugins, installed=False, strict=True))


@cache
def installed() -> Registry:
    """What is installed in this environment, loaded once."""
    from pydump import builtin

    return Registry(load(builtin=[("core", builtin)]))
