"""What typer parses: ``pydump`` itself, and its commands, each made when it is asked for."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Annotated, Any, Final

import typer
from typer import Option
from typer.core import TyperCommand, TyperGroup, TyperOption

from pydump.cli.app import print_version
from pydump.cli.arguments import Arch, Json
from pydump.cli.console import listen, silence_stdout, tell
from pydump.cli.ending import EXIT_BROKEN_PIPE, handle_signals
from pydump.cli.session import session
from pydump.errors import PluginError, failure

#: Each command's name, and ``module:function`` below ``pydump.cli.commands``.
COMMANDS: Final = {
    "dump": "dump:dump",
    "info": "show:info",
    "verify": "check:verify",
    "compare": "check:compare",
    "read": "show:read",
    "map": "show:map_",
    "dmesg": "show:dmesg",
    "size": "show:size",
    "shell": "shell:shell",
    "batch": "batch:batch",
    "watch": "watch:watch",
    "status": "manage:status",
    "storage": "storage:storage",
    "plugins": "manage:plugins",
    "new-plugin": "manage:new_plugin",
}
#: Commands that read no guest memory.
LIGHT: Final = ("batch", "watch", "status", "storage", "plugins", "new-plugin")
#: Options of ``pydump`` and of each command: they may stand before its name and after it.
LOUDNESS: Final = {("--verbose", "-v"): "Explain choices.", ("--quiet", "-q"): "Print errors only."}
#: Bytes of address space that NumPy and its libraries take at least.
LIBRARIES: Final = 80 << 20
#: A help page is as wide as the terminal, up to this many columns.
_SETTINGS: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 120}


class Command(TyperCommand):
    """A command that also takes ``-v`` and ``-q`` after its name: who repeats a command adds them at the end."""

    #: The headings of the help page, in order.
    panels: tuple[str, ...] = ("Arguments", "Options")

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        for flags, text in LOUDNESS.items():
            self.params.append(
                TyperOption(param_decls=list(flags), is_flag=True, expose_value=False, callback=_adjust, help=text)
            )

    def panel_of(self, param: Any) -> str:
        """The heading under which the help page shows an option."""
        return "Options"

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, then options by panel."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            row = param.get_help_record(ctx)
            if row is not None:
                name = "Arguments" if param.param_type_name == "argument" else self.panel_of(param)
                panels.setdefault(name, []).append(row)
        for name in sorted(panels, key=self.panels.index):
            with formatter.section(name):
                formatter.write_dl(panels[name])

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples."""
        from pydump.cli.examples import EXAMPLES

        with formatter.section("Examples"):
            for line, comment in EXAMPLES[self.name or ""]:
                formatter.write(f"{'':{formatter.current_indent}}# {comment}\n{'':{formatter.current_indent}}{line}\n")

    def invoke(self, ctx: Any) -> Any:
        """Load what the command needs, then run it."""
        if session.verbose or self.name not in LIGHT:
            listen(reasons=session.verbose)
        if self.name != "plugins":
            _warn_of_broken_plugins()
        if self.name not in LIGHT:
            _load()
        handle_signals()
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:  # the parser's own answer is exit code 1
            if isinstance(failed := failure(error), PluginError):
                raise failed from error
            silence_stdout()
            return EXIT_BROKEN_PIPE


class ReadingCommand(Command):
    """A command that reads guest memory. It has options of installed plugins, and loads these when it is asked for."""

    _of_plugins: list[Any] | None = None

    def get_params(self, ctx: Any) -> list[Any]:
        """Its parameters, with those of plugins and the help that depends on what is installed."""
        if self._of_plugins is None:
            self._of_plugins = self._look_up()
        own, rest = self.params, super().get_params(ctx)[len(self.params) :]
        return [*own, *self._of_plugins, *rest]

    def _look_up(self) -> list[Any]:
        """The parameters of plugins."""
        from pydump.cli import plugin_options
        from pydump.registry import installed

        return plugin_options.of_readers(installed())


class _Commands(Mapping[str, TyperCommand]):
    """The commands by name. One with many options takes its time to make, so each is made when it is asked for."""

    def __init__(self) -> None:
        self._made: dict[str, TyperCommand] = {}

    def __getitem__(self, name: str) -> TyperCommand:
        if name not in self._made:
            module, _, function = COMMANDS[name].partition(":")
            home = import_module(f"pydump.cli.commands.{module}")
            alone = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings=dict(_SETTINGS))
            alone.command(name, cls=getattr(home, "Command", Command))(getattr(home, function))
            self._made[name] = typer.main.get_command(alone)  # type: ignore[assignment]
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


def command_named(name: str) -> TyperCommand:
    """A command of ``pydump``, ready to parse."""
    return _Commands()[name]


class _Program(TyperGroup):
    """``pydump`` itself."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.commands = _Commands()  # type: ignore[assignment]

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of the commands, in the order of the help page."""
        return list(self.commands)


def program() -> Any:
    """``pydump``, ready to parse."""
    app = typer.Typer(
        name="pydump",
        cls=_Program,
        invoke_without_command=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings=dict(_SETTINGS),
    )
    app.callback()(top)
    return typer.main.get_command(app)


def top(
    context: typer.Context,
    arch: Arch = None,
    version: Annotated[bool, Option("--version", help="Print the version and exit.")] = False,
    verbose: Annotated[bool, Option("--verbose", "-v", help=LOUDNESS["--verbose", "-v"])] = False,
    quiet: Annotated[bool, Option("--quiet", "-q", help=LOUDNESS["--quiet", "-q"])] = False,
    as_json: Json = False,
) -> None:
    """Turn guest memory into a vmcore that every tool can open.

    --arch NAME without a command prints what dumps of that architecture hold.
    """
    session.arch, session.verbose, session.quiet = arch, verbose, quiet
    if version:
        print_version()
    elif context.invoked_subcommand is None:
        if arch is None:
            print(context.get_help())
            raise typer.Exit(2)
        from pydump.cli import facts
        from pydump.registry import installed

        facts.arch(installed().arch(arch), installed(), as_json=as_json)


def _adjust(context: Any, parameter: Any, value: bool) -> None:
    """Note that ``-v`` or ``-q`` was given."""
    if value:
        setattr(session, parameter.name, True)


def _warn_of_broken_plugins() -> None:
    if session.quiet:
        return
    from pydump.registry import installed

    for plugin in installed().broken:
        tell(f"pydump: warning: plugin {plugin.name} does not work: {plugin.error}")


def _load() -> None:
    """Load what takes long, while Ctrl-C can still end the process at once.

    Raises:
        MemoryError: There is too little for it: NumPy's linear algebra would print a line of its own, and exit.
    """
    try:
        mmap.mmap(-1, LIBRARIES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError:
        raise MemoryError from None
    import numpy  # noqa: F401  (loaded at its first use)

    import pydump.api  # noqa: F401
