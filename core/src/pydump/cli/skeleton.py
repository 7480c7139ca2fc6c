"""``pydump new-plugin``: a working plugin to start from, made of the templates that come with pydump.

A template is a plugin called "skeleton" that works as it stands; a new plugin is the same text with its own name.
"""

from __future__ import annotations

import re
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from shutil import rmtree

from pydump.errors import PlanError, PydumpError
from pydump.registry import installed

ROLES = ("arch", "format", "compressor", "filter", "source", "sink")


def new_plugin(role: str, name: str, directory: Path) -> Path:
    """Write the plugin ``name`` into a new folder in ``directory``.

    Returns:
        The folder.

    Raises:
        PlanError: There is no such role, the name cannot be one, or the folder or the name is taken.
        PydumpError: The folder cannot be written.
    """
    if role not in ROLES:
        raise PlanError(f"no template for a plugin of role {role!r}", hint=f"available: {', '.join(ROLES)}")
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        raise PlanError(
            f"{name!r} cannot be a plugin's name", hint="write lower-case letters, digits and _, such as lz_fast2"
        )
    if name in installed().words(role):
        raise PlanError(f"the {role} name {name!r} is taken", hint="pydump plugins lists the names")
    dashed = name.replace("_", "-")
    names = {
        f"{role}-skeleton": f"{role}-{dashed}",  # distribution, entry point
        "Skeleton": "".join(word.capitalize() for word in name.split("_")),  # classes
        "skeleton": name,
    }
    folder = directory / f"pydump-{role}-{dashed}"
    try:
        folder.mkdir()
    except FileExistsError:
        raise PlanError(f"{folder} exists", hint="move it away, or take another name") from None
    except OSError as error:
        raise PydumpError(f"cannot make {folder}: {error.strerror}") from None
    try:
        _copy(files("pydump").joinpath("templates", role), folder, names)
    except OSError as error:
        rmtree(folder, ignore_errors=True)
        raise PydumpError(f"cannot write {folder}: {error.strerror}; nothing was left") from None
    return folder


def _copy(template: Traversable, folder: Path, names: dict[str, str]) -> None:
    for item in template.iterdir():
        if item.name == "__pycache__":
            continue
        target = folder / _renamed(item.name, names)
        if item.is_dir():
            target.mkdir()
            _copy(item, target, names)
        else:
            target.write_text(_renamed(item.read_text("utf-8"), names), "utf-8")


def _renamed(text: str, names: dict[str, str]) -> str:
    return re.sub("|".join(names), lambda match: names[match[0]], text)
