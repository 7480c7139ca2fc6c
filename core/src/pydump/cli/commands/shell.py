"""The command ``shell``: drgn, or Python, on a vmcore."""

from __future__ import annotations

import contextlib
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Exit

from pydump.cli.arguments import Arch, SourceArg, Vmlinux
from pydump.cli.console import talk
from pydump.cli.session import session
from pydump.errors import PydumpError

if TYPE_CHECKING:
    from pydump.engine.dump import Dump


def shell(
    source: SourceArg,
    script: Annotated[Path | None, Argument(metavar="SCRIPT", help="Run this Python file instead of a prompt.")] = None,
    arch: Arch = None,
    vmlinux: Vmlinux = None,
) -> None:
    """Open drgn, or Python, on a vmcore or a running guest.

    It is Python where drgn is not installed or the guest has no VMCOREINFO.

    vmcore is the open dump, as pydump.open returns it. prog is drgn's program, if drgn is installed.
    """
    import pydump

    for path in (vmlinux, script):
        try:
            with contextlib.nullcontext() if path is None else path.open("rb"):
                pass
        except OSError as error:
            raise PydumpError(f"cannot open {path}: {error.strerror}") from None
    with pydump.open(source, arch=session.arch if arch is None else arch) as vmcore:
        names: dict[str, Any] = {"vmcore": vmcore, "pydump": pydump}
        try:
            names["prog"] = vmcore.drgn(vmlinux)
        except PydumpError as error:
            if vmlinux is not None:
                raise
            talk(f"without drgn: {error}")
        if script is not None:
            _run(script, names)
        elif "prog" in names:
            from drgn.cli import run_interactive

            run_interactive(
                names["prog"], banner_func=lambda _: _banner(vmcore, source), globals_func=lambda more: more | names
            )
        else:
            import code

            code.interact(_banner(vmcore, source), local=names, exitmsg="")


def _banner(vmcore: Dump, source: str) -> str:
    return f"vmcore is {source}, a guest of {vmcore.known.arch or 'an unknown architecture'}; leave with Ctrl-D"


def _run(script: Path, names: dict[str, Any]) -> None:
    """Run a file with these names. The traceback of an error in it is printed, as Python does.

    Raises:
        PydumpError: It cannot be read.
        Exit: It failed.
    """
    try:
        text = script.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise PydumpError(f"cannot read {script}: {getattr(error, 'strerror', error)}") from None
    try:
        exec(compile(text, str(script), "exec"), {"__name__": "__main__", "__file__": str(script), **names})
    except PydumpError:
        raise
    except Exception as error:
        lines = traceback.format_exception(type(error), error, error.__traceback__ and error.__traceback__.tb_next)
        print("".join(lines), end="", file=sys.stderr)
        raise Exit(1) from None
