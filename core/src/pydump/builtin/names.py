"""Where a name leads, and whether somebody else may have led it there.

In a directory that others can write to, a name may be theirs: a pipe that they read, or a link to a device. Whoever
writes guest memory there without looking hands it to them.
"""

from __future__ import annotations

import errno
import os
import re
import stat

from pydump.errors import PlanError

#: Symbolic links that one path may lead over. Source: path_resolution(7).
MAX_LINKS = 40
#: A directory of links to open files, which have no other name. Source: proc_pid_fd(5).
DESCRIPTORS = re.compile(r"/proc/(\d+)(/task/\d+)?/fd")


def resolve(path: str) -> tuple[str, list[str]]:
    """The path without symbolic links, and the links that it led over.

    A link to an open file is not followed: what it leads to may be an ordinary file, whose name is not what was asked
    for.

    Raises:
        OSError: There is no such directory or link, or too many links.
    """
    here = "/" if path.startswith("/") else os.getcwd()
    words = path.split("/")[::-1]
    links: list[str] = []
    while words:
        word = words.pop()
        if word in ("", "."):
            continue
        if word == "..":
            here = os.path.dirname(here)
            continue
        if DESCRIPTORS.fullmatch(here) and word.isdecimal():
            return os.path.join(here, word), links
        there = os.path.join(here, word)
        if not stat.S_ISLNK(os.lstat(there).st_mode):
            here = there
            continue
        links.append(there)
        if len(links) > MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        target = os.readlink(there)
        here = "/" if target.startswith("/") else here
        words += target.split("/")[::-1]
    return here, links


def open_file_behind(path: str) -> tuple[int, int]:
    """The process and the number of the open file that ``path`` leads to, as /dev/stdout does; or 0, 0."""
    try:
        directory, name = os.path.split(resolve(path)[0])
    except (OSError, ValueError):
        return 0, 0
    of = DESCRIPTORS.fullmatch(directory)
    return (int(of[1]), int(name)) if of and name.isdecimal() else (0, 0)


def refuse_planted(path: str, fd: int) -> None:
    """Refuse a special file, or a link on the way to it, that somebody else may have put there.

    It may be there if it is ours or root's, or in a directory that only we and root can write to.

    Args:
        path: What the user named.
        fd: What it led to, open: names can change meanwhile, what is open cannot.

    Raises:
        PlanError: It may be somebody else's.
        OSError: The path leads nowhere now.
    """
    found = os.fstat(fd)
    name, links = resolve(path)
    for link in links:
        _refuse(path, link, os.lstat(link), f"leads over {link}, a link")
    if not DESCRIPTORS.fullmatch(os.path.dirname(name)):  # what another process has open is reached through /proc alone
        if not os.path.samestat(os.lstat(name), found):
            raise PlanError(f"{path} was replaced while it was opened", hint="name a place that only you can write to")
        _refuse(path, name, found, "is a special file")


def _refuse(path: str, name: str, status: os.stat_result, what: str) -> None:
    if status.st_uid in (0, os.geteuid()):
        return
    directory = os.stat(os.path.dirname(name))
    if directory.st_uid in (0, os.geteuid()) and not directory.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return
    raise PlanError(
        f"{path} {what} that user {status.st_uid} made in a directory that others can write to",
        hint="the dump would go where they want it; choose another place, or write there with --force",
    )
