"""The command ``watch``: captures a guest when something happens to it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from pydump.cli import program
from pydump.cli.arguments import Json
from pydump.cli.session import session
from pydump.errors import PlanError


class Command(program.Command):
    """``watch``: an option of ``dump`` before ``--`` is an error that says where it goes."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Parse the command line."""
        try:
            return super().parse_args(ctx, args)
        except typer.TyperException as error:
            flag = getattr(error, "option_name", None)  # of an option that is unknown
            dump = program.command_named("dump").get_params(ctx) if flag else ()
            if any(flag in (*param.opts, *param.secondary_opts) for param in dump):
                raise PlanError(f"{flag} is an option of dump", hint=f"write it after --: -- {flag}") from None
            raise


def watch(
    source: Annotated[str, Argument(metavar="SOURCE", help="A guest that runs: qmp:SOCKET, libvirt:DOMAIN.")],
    directory: Annotated[Path, Argument(metavar="DIR", help="Where to write dumps: EVENT-TIME.vmcore, in UTC.")],
    options: Annotated[
        list[str] | None, Argument(metavar="[-- OPTIONS]", help="Options of pydump dump, such as -- -d 31.")
    ] = None,
    on: Annotated[str, Option("--on", metavar="EVENT", help="What to wait for: panicked.")] = "panicked",
    keep: Annotated[
        int | None, Option("--keep", metavar="N", help="Keep the N latest dumps of this event in DIR. Default: all.")
    ] = None,
    go_on: Annotated[
        bool, Option("--go-on", help="Wait for the next event after a capture, until the guest ends.")
    ] = False,
    wait: Annotated[
        float, Option("--wait", metavar="SECONDS", help="Wait so long for a guest that is not there yet.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Wait until a guest panics, and capture it.

    The guest is left as it was found. A guest that has panicked already is captured at once.

    Exit codes: those of pydump dump; 1 also if the guest ended before it panicked, 3 also if the dump could not be
    written as asked and lacks what an option asked for.
    """
    from pydump.cli.watch import Watched, watch_for

    if keep is not None and keep < 1:
        raise PlanError("--keep must be at least 1")
    if wait < 0:
        raise PlanError("--wait must not be negative")
    words = (
        *(["--quiet"] if session.quiet else []),
        *(["--verbose"] if session.verbose else []),
        *(["--arch", session.arch] if session.arch is not None else []),
        *(options or ()),
        *(["--json"] if as_json or session.json else []),
    )
    code = watch_for(Watched(source, on, directory, words, keep, wait), go_on=go_on)
    if code:
        raise typer.Exit(code)
