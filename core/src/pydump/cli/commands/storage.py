"""``pydump storage``: what was left in places where dumps are kept."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import Annotated

from typer import Argument, Option

from pydump.cli.arguments import Json
from pydump.cli.session import session


class Action(StrEnum):
    """What to do with a storage."""

    CLEAN = "clean"


def storage(
    action: Annotated[Action, Argument(metavar="COMMAND", help="clean lists what is left; --remove removes it.")],
    url: Annotated[
        str,
        Argument(metavar="URL", help="An object; a bucket or folder and all below it; or a directory of this machine."),
    ],
    remove: Annotated[
        bool, Option("--remove", help="Remove what is listed. A dump that is still being written there fails.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List, or remove, what killed dumps left behind.

    A store keeps the parts of an unfinished object: nobody sees them, and somebody pays for them. A directory may keep
    hidden files. A dump that is still being written is listed as well.
    """
    from pydump.cli import render
    from pydump.cli.console import talk
    from pydump.engine.locate import find_stored
    from pydump.registry import installed

    place = find_stored(url, installed())
    left = place.storage.leftovers(place.url)
    if remove:
        for one in left:
            one.remove()
    if as_json or session.json:
        listed = [{"url": one.url, "began": one.began, "size": one.size, "removed": remove} for one in left]
        render.print_json({"leftovers": listed})
    elif left:
        rows = [
            (one.url, time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.began)), render.size(one.size))
            for one in left
        ]
        render.grid(("output", "began", "removed" if remove else "size"), rows)
    elif place.storage.leaves():
        talk(f"no unfinished dump is left at {url}")
    else:
        talk(f"a dump that is killed leaves nothing at {url}: {place.storage.name} keeps no unfinished dumps")
