"""The command ``pydump``: runs what was typed and returns the exit code."""

from __future__ import annotations

import sys

from pydump.cli.console import escape_unprintable
from pydump.cli.ending import EXIT_INTERRUPTED, exit_code_of, fail
from pydump.cli.session import session


def run(arguments: list[str]) -> int:
    """Run the command line.

    Returns:
        The exit code.
    """
    session.written = session.json = session.stdout_is_data = False

    def work() -> int:
        escape_unprintable()
        if arguments == ["--version"]:  # scripts ask for it often: nothing else is loaded
            print_version()
            code = 0
        else:
            code = _parsed(arguments)
        sys.stdout.flush()
        return code

    return exit_code_of(work)


def print_version() -> None:
    """Print the version."""
    from pydump import __version__

    print(f"pydump {__version__}")


def _parsed(arguments: list[str]) -> int:
    """Have typer parse the arguments and run the command."""
    import typer

    from pydump.cli.program import program

    try:
        code = program().main(arguments, prog_name="pydump", standalone_mode=False)
    except typer.Abort:
        raise KeyboardInterrupt from None
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        page = context.command_path if context else "pydump"
        message = " ".join(error.format_message().split()).rstrip(".")
        return fail(message, error.exit_code, f"see {page} --help")
    if code == EXIT_INTERRUPTED:  # typer's answer to Ctrl-C
        raise KeyboardInterrupt
    return code if isinstance(code, int) else 0
