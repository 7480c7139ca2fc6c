"""How a URL becomes a file system of fsspec, what is tried again, and how its errors are told."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from pydump.errors import PlanError

T = TypeVar("T")

#: Scheme to the extra that brings its library.
EXTRAS: Final = {"s3": "s3", "gs": "gs", "az": "az", "http": "http", "https": "http", "sftp": "sftp"}
#: How often a request is made in all, and the seconds to wait after the first and at most.
ATTEMPTS, FIRST_WAIT, LONGEST_WAIT = 8, 0.2, 10.0
#: Seconds without a byte after which a connection is given up.
PATIENCE: Final = 30
#: Answers that may be others when asked again, beside all from 500 on. Source: RFC 9110, 15.5.9; RFC 6585, 4.
BUSY: Final = frozenset({408, 425, 429})
#: Codes of S3 for a request that did not arrive whole. Source: Amazon S3 API Reference, "Error responses".
CUT_OFF: Final = frozenset({"RequestTimeout", "IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch"})


def filesystem(url: str) -> tuple[Any, str]:
    """The file system of a URL, for this process, and the path that it takes.

    Raises:
        PlanError: The URL is wrong, or a library is missing.
    """
    import fsspec

    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    if not rest.strip("/") or not rest.isprintable():
        raise PlanError(f"{url!r} names no object", hint=f"write {url.partition(':')[0]}://BUCKET/NAME")
    try:
        cls = fsspec.get_filesystem_class(scheme)
    except (ImportError, ValueError):
        extra = EXTRAS.get(scheme, scheme)
        raise PlanError(
            f"{scheme}:// needs a library that is not installed", hint=f"pip install 'pydump-storage-fsspec[{extra}]'"
        ) from None
    given: dict[str, Any] = cls._get_kwargs_from_urls(url) if scheme == "sftp" else {}
    if scheme == "s3":
        given["config_kwargs"] = _s3_config(fsspec.config.conf)
    try:
        made = fsspec.filesystem(scheme, **given)
    except Exception as error:  # each library has errors of its own
        raise PlanError(f"cannot connect to {url}: {reason(error)}") from None
    if scheme == "s3":
        made.retries = 1  # what is tried again, is so in one place
    return made, str(made._strip_protocol(url))


def _s3_config(conf: dict[str, Any]) -> dict[str, Any]:
    """How botocore is set up: with what the user's fsspec configuration says, and without retries of its own."""
    wanted = {"retries": {"total_max_attempts": 1}, "connect_timeout": 10, "read_timeout": PATIENCE}
    return wanted | dict(conf.get("s3", {}).get("config_kwargs", {}))


def again(call: Callable[[], T]) -> T:
    """Make a request, several times where it may succeed later, with growing pauses between.

    Raises:
        Exception: What the last attempt raised.
    """
    wait = FIRST_WAIT
    for _ in range(ATTEMPTS - 1):
        try:
            return call()
        except Exception as error:  # each library has errors of its own
            if not passes(error):
                raise
        time.sleep(wait * random.uniform(0.5, 1))
        wait = min(2 * wait, LONGEST_WAIT)
    return call()


def passes(error: BaseException) -> bool:
    """Whether the same request may succeed later."""
    status = status_of(error)
    if status is not None:
        return status >= 500 or status in BUSY or code_of(error) in CUT_OFF
    if isinstance(error, FileNotFoundError | PermissionError | FileExistsError | IsADirectoryError):
        return False
    names = {cls.__name__ for cls in type(error).__mro__}
    return isinstance(error, OSError | TimeoutError | EOFError) or bool(
        names & {"HTTPClientError", "ConnectionError", "ResponseParserError", "ClientError", "SSHException"}
    )


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an error shows, or None."""
    for one in (error, error.__cause__):
        answer = getattr(one, "response", None)
        found = answer.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(answer, dict) else None
        found = getattr(one, "status", None) if found is None else found
        if isinstance(found, int):
            return found
    return None


def code_of(error: BaseException) -> str:
    """S3's word for an error, or an empty string."""
    for one in (error, error.__cause__):
        answer = getattr(one, "response", None)
        if isinstance(answer, dict):
            return str(answer.get("Error", {}).get("Code", ""))
    return ""


def reason(error: BaseException) -> str:
    """Why something failed, in one line."""
    for one in (error, error.__cause__):
        answer = getattr(one, "response", None)
        told = answer.get("Error", {}).get("Message") if isinstance(answer, dict) else None
        if told and told != "Not Found":
            return " ".join(str(told).split()).rstrip(".")
    if isinstance(error, FileNotFoundError):
        return "it is not there"
    said = " ".join(str(error.args[-1] if isinstance(error, OSError) and error.args else error).split())
    return said.rstrip(".") or type(error).__name__
