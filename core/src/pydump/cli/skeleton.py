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

ROLES = ("arch", "format", "compressor", "executor", "filter", "source", "storage")


def new_plugin(role: str, name: str, directory: Path, *, memory_only: bool = False) -> Path:
    """Write the plugin ``name`` into a new folder in ``directory``.

    Args:
        role: What the plugin is.
        name: What users call it.
        directory: Where the folder is made.
        memory_only: Of a format: one that holds memory, and no facts of the guest.

    Returns:
        The folder.

    Raises:
        PlanError: There is no such role, the name cannot be one, or the folder or the name is taken.
        PydumpError: The folder cannot be written.
    """
    if role not in ROLES:
        raise PlanError(f"no template for a plugin of role {role!r}", hint=f"available: {', '.join(ROLES)}")
    if memory_only and role != "format":
        raise PlanError("--memory-only is for formats", hint="leave it out")
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
        templates = files("pydump").joinpath("templates")
        _copy(templates.joinpath(role), folder, names)
        if memory_only:
            module = templates.joinpath("format_memory", "skeleton_memory.py")
            package = folder / _renamed("src/pydump_format_skeleton", names)
            (package / "__init__.py").write_text(_renamed(module.read_text("utf-8"), names), "utf-8")
    except OSError as error:
        rmtree(folder, ignore_errors=True)
        raise PydumpError(f"cannot write {folder}: {error.strerror}; nothing was left") from None
    return folder


def users_of_compressors() -> str:
    """Which installed formats can use a new compressor: none, for each names those that it has a number for."""
    known = ", ".join(f"{cls.name} ({', '.join(cls.compressors)})" for cls in installed().formats() if cls.compressors)
    return (
        "A dump is compressed only with a compressor that its format names in `compressors`"
        + (f"; installed: {known}" if known else "")
        + ". A new one needs a format that names it, or unpacks whole files (file_magic)."
    )


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
