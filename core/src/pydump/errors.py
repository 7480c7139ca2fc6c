"""What can go wrong, each with its facts as attributes and, where there is one, a hint on what to do.

The command line prints ``message`` and ``hint`` on one line and ends with ``exit_code``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

#: Rooms that plugins call. An error that arises in one of them is laid to the code that called it.
_CALLED: Final = ("interfaces", "kernel", "layout", "model", "options", "process", "errors", "signals")


class PydumpError(Exception):
    """Base of every error that pydump raises on purpose.

    Attributes:
        message: What happened, in one line.
        hint: What to do about it, or None.
        exit_code: The process's exit code when this error ends a command.
        traceback: Where code failed that should not have, as Python prints it; "" for an error raised on purpose.
    """

    exit_code = 1
    traceback = ""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors cross process boundaries: rebuild without calling __init__, whose arguments differ by class.
        return (_rebuild, (type(self), self.args, self.__dict__))


def _rebuild(cls: type[PydumpError], args: tuple[Any, ...], state: dict[str, Any]) -> PydumpError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class PlanError(PydumpError):
    """The request cannot be carried out as asked; nothing was read or written."""

    exit_code = 2


class UnknownPluginError(PlanError):
    """A name that no installed plugin has registered.

    Attributes:
        role: "arch", "format", "compressor", "executor", "source" or "storage".
        name: What was asked for.
        known: The names that are registered.
    """

    def __init__(self, role: str, name: str, known: tuple[str, ...], *, hint: str | None = None) -> None:
        listed = ", ".join(known) if known else "none"
        super().__init__(f"unknown {role} {name!r}; available: {listed}", hint=hint)
        self.role = role
        self.name = name
        self.known = known


class UnsupportedError(PlanError):
    """Everything named exists, but the combination does not."""


class PluginError(PydumpError):
    """A plugin is broken, or failed while it was working.

    Attributes:
        plugin: The plugin's name.
        distribution: What it was installed with, or "" where that is not known.
    """

    def __init__(self, plugin: str, message: str, *, distribution: str = "", hint: str | None = None) -> None:
        whose = f"{plugin} of {distribution}" if distribution else plugin
        super().__init__(f"plugin {whose}: {message}", hint=hint)
        self.plugin = plugin
        self.distribution = distribution


class SourceError(PydumpError):
    """Guest memory or guest facts could not be had."""


class ReadError(SourceError):
    """A range of guest memory could not be read.

    Attributes:
        paddr: Address of the first byte asked for: guest-physical, unless the message says vaddr.
        size: Bytes asked for.
    """

    def __init__(self, paddr: int, size: int, why: str, *, hint: str | None = None, space: str = "paddr") -> None:
        super().__init__(f"cannot read {size:#x} bytes at {space} {paddr:#x}: {why}", hint=hint)
        self.paddr = paddr
        self.size = size


class DamagedPageError(ReadError):
    """A page of the source is damaged, and others can be read: a dump goes on without it."""


class FormatError(PydumpError):
    """A file is not what its format says it should be.

    Attributes:
        path: The file.
        offset: Where in the file, or None.
    """

    def __init__(self, path: str, message: str, *, offset: int | None = None, hint: str | None = None) -> None:
        where = "" if offset is None else f" at offset {offset:#x}"
        super().__init__(f"{path}{where}: {message}", hint=hint)
        self.path = path
        self.offset = offset


class CompressionError(PydumpError):
    """Compressed data does not decompress to what it should.

    Attributes:
        compressor: The compressor's name.
    """

    def __init__(self, compressor: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(f"{compressor}: {message}", hint=hint)
        self.compressor = compressor


class SinkError(PydumpError):
    """The output could not be written. Nothing was left at the target, unless the message says what is there."""


class Cancelled(PydumpError):  # noqa: N818  (an interruption is no error of anybody's)
    """The run was interrupted; nothing was left at the target."""

    exit_code = 130


def failure(error: Exception, doer: str = "internal error", *, plugin: str = "", where: str = "") -> PydumpError:
    """The error that says in one line that code failed which should not have, and whose code that is.

    It keeps the traceback, so that it can be sent to another process.

    Args:
        error: What was raised. A PydumpError was raised on purpose, and is returned as it is.
        doer: What failed, if it is not a plugin: "a worker process failed".
        plugin: Whose code was called, if the traceback names no installed plugin.
        where: What it worked on: "at paddr 0x1000".

    Returns:
        A PluginError if a plugin's code raised it, or called what raised it.
    """
    if isinstance(error, PydumpError):
        return error
    import traceback

    said = f"{type(error).__name__}: {' '.join(str(error).split())}" + (f", {where}" if where else "")
    hint = "PYDUMP_DEBUG=1 shows the traceback"
    found = PydumpError(f"{doer}: {said}", hint=hint)
    if package := _plugin_in(error) or plugin:
        found = plugin_error(package, said, hint=hint)
    found.traceback = "".join(traceback.format_exception(error))
    return found


def plugin_error(package: str, message: str, *, hint: str | None = None) -> PluginError:
    """The error that a plugin is broken, which names the plugin and its distribution, if it is installed.

    Args:
        package: The package that its module lies in, such as ``type(writer).__module__``.
        message: What is wrong.
        hint: What to do about it.
    """
    package = package.partition(".")[0]
    entry = _plugins().get(package)
    if entry is None:
        return PluginError(package, message, hint=hint)
    return PluginError(entry.name, message, distribution=entry.dist.name if entry.dist else "", hint=hint)


def _plugin_in(error: Exception) -> str:
    """The package of the plugin whose code raised an error, or called the library that did; "" if pydump's did."""
    import traceback

    plugins = _plugins()
    modules = [str(frame.f_globals.get("__name__")).split(".") for frame, _ in traceback.walk_tb(error.__traceback__)]
    for package, *rooms in reversed(modules):
        if package in plugins:
            return package
        if package == "pydump" and not (rooms and rooms[0] in _CALLED):
            return ""
    return ""


def _plugins() -> dict[str, EntryPoint]:
    """The installed plugins by their package."""
    from importlib.metadata import entry_points

    return {entry.module.partition(".")[0]: entry for entry in entry_points(group="pydump")}
