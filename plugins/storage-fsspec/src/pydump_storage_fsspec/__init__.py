"""Dumps in object stores and on web servers, through fsspec.

Reading works for every scheme below, writing for S3 and memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydump.hookspecs import hookimpl
from pydump.interfaces.backing import Backing
from pydump.interfaces.sink import Sink
from pydump.interfaces.storage import Leftover, Storage


class FsspecStorage(Storage):
    """What fsspec opens under a scheme of the same name."""

    @classmethod
    def reader(cls, url: str, options: Any = None) -> Backing:
        from pydump_storage_fsspec.backing import RemoteBacking

        return RemoteBacking(url)

    @classmethod
    def matching(cls, pattern: str) -> Sequence[str]:
        from pydump_storage_fsspec.listing import matching

        return matching(pattern)

    @classmethod
    def state(cls, url: str) -> str | None:
        from pydump_storage_fsspec.listing import state

        return state(url)


class S3Storage(FsspecStorage):
    """``s3://BUCKET/KEY``: Amazon S3, and every server that speaks its protocol."""

    name: ClassVar[str] = "s3"

    @classmethod
    def writer(cls, url: str, options: Any = None, *, force: bool = False, sync: bool = True) -> Sink:
        from pydump_storage_fsspec.s3 import S3Sink

        return S3Sink(url, force=force)

    @classmethod
    def resumable(
        cls,
        url: str,
        made_of: Mapping[str, str],
        options: Any = None,
        *,
        resume: bool,
        force: bool = False,
        sync: bool = True,
    ) -> Sink:
        from pydump_storage_fsspec.s3 import S3Sink

        return S3Sink(url, force=force, made_of=made_of, resume=resume)

    @classmethod
    def leftovers(cls, url: str, options: Any = None) -> Sequence[Leftover]:
        from pydump_storage_fsspec.s3 import leftovers

        return leftovers(url)


class MemoryStorage(FsspecStorage):
    """``memory://NAME``: this process alone, for tests and notebooks."""

    name: ClassVar[str] = "memory"
    transient: ClassVar[bool] = True

    @classmethod
    def writer(cls, url: str, options: Any = None, *, force: bool = False, sync: bool = True) -> Sink:
        from pydump_storage_fsspec.memory import MemorySink

        return MemorySink(url, force=force)


class GsStorage(FsspecStorage):
    """``gs://BUCKET/KEY``: Google Cloud Storage."""

    name: ClassVar[str] = "gs"


class AzStorage(FsspecStorage):
    """``az://CONTAINER/BLOB``: Azure Blob Storage."""

    name: ClassVar[str] = "az"


class HttpStorage(FsspecStorage):
    """``http://HOST/PATH``."""

    name: ClassVar[str] = "http"


class HttpsStorage(FsspecStorage):
    """``https://HOST/PATH``."""

    name: ClassVar[str] = "https"


class SftpStorage(FsspecStorage):
    """``sftp://USER@HOST/PATH``."""

    name: ClassVar[str] = "sftp"


@hookimpl
def pydump_register_storages() -> Sequence[type[Storage]]:
    """One for each scheme."""
    return [S3Storage, GsStorage, AzStorage, HttpStorage, HttpsStorage, SftpStorage, MemoryStorage]
