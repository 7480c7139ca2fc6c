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
    action: Annotated[Action, Argument(metavar="clean", help="List, or remove, what runs that were killed left.")],
    url: Annotated[str, Argument(metavar="URL", help="An object, or a bucket or folder: all that is below it.")],
    remove: Annotated[
        bool, Option("--remove", help="Remove what is listed. A dump that is still being written there fails.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List parts of dumps that were killed while they were written to a store; --remove removes them.

    Nobody sees such parts, but they are paid for. A dump that is being written is listed as well.
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
    else:
        talk(f"nothing is left at {url}")
