"""What is in a store, and whether it has changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydump.errors import PydumpError, SourceError
from pydump_storage_fsspec.remote import again, filesystem, reason

#: What file systems of fsspec say of a file that changes with its content, by their own names.
CHANGING: Final = ("size", "ETag", "etag", "md5Hash", "generation", "LastModified", "last_modified", "mtime", "created")


def matching(pattern: str) -> Sequence[str]:
    """The URLs that a pattern names, in order.

    Raises:
        SourceError: The store does not say.
    """
    fs, name = filesystem(pattern)
    scheme = pattern.partition("://")[0]
    try:
        found = again(lambda: fs.glob(name))
    except Exception as error:  # each library has errors of its own
        raise SourceError(f"cannot list {pattern}: {reason(error)}") from None
    return [one if "://" in one else f"{scheme}://{one.lstrip('/')}" for one in sorted(found)]


def state(url: str) -> str | None:
    """Size, entity tag and time of an object, as far as its store has them; None where it is not there."""
    try:
        fs, name = filesystem(url)
        fs.invalidate_cache()
        info = again(lambda: fs.info(name))
    except PydumpError:
        raise
    except Exception:  # each library has errors of its own
        return None
    return state_in(info)


def state_in(info: Mapping[str, Any]) -> str:
    """What of fsspec's answer on a file changes with its content."""
    return ", ".join(f"{key} {info[key]}" for key in CHANGING if info.get(key) is not None)
