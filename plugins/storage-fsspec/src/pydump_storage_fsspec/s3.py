"""Writing to S3: one object, uploaded in parts as they become complete, which appears when all are there.

Source: Amazon S3 API Reference, CreateMultipartUpload, UploadPart, CompleteMultipartUpload.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ClassVar, Final

from pydump.errors import PlanError, SinkError, SourceError
from pydump.interfaces.sink import Extent, Hole, Placement, SharedParts, Sink
from pydump.interfaces.storage import Leftover
from pydump_storage_fsspec.parts import Assembly, Part
from pydump_storage_fsspec.remote import code_of, filesystem, passes, reason, status_of
from pydump_storage_fsspec.requests import call
from pydump_storage_fsspec.shared import S3Parts, Upload
from pydump_storage_fsspec.unfinished import digest, marks, stored_parts, unfinished, uploads

#: Parts that are uploaded at once.
AT_ONCE: Final = 4
#: Metadata of the object that says which upload made it.
MARK: Final = "pydump-upload"
#: Codes for an object that is there already.
THERE: Final = frozenset({"PreconditionFailed", "ConditionalRequestConflict"})


class S3Sink(Sink):
    """An object that appears, whole, when its last part has been uploaded.

    Parts of a run that was killed stay in the store, where nobody sees them: ``pydump storage clean`` removes them.

    Args:
        url: What the user wrote.
        force: Replace what is there.
        made_of: What decides the bytes of the object, see :meth:`pydump.interfaces.storage.Storage.resumable`; None
            where no other run makes the same.
        resume: Continue the upload of a run that was killed, and leave parts for another if this one fails.

    Raises:
        PlanError: Something is there and ``force`` is not set, the URL is wrong, or an upload that could be continued
            is of something else.
        SinkError: It cannot be written.
    """

    placement: ClassVar[Placement] = "parts"

    def __init__(
        self, url: str, *, force: bool, made_of: Mapping[str, str] | None = None, resume: bool = False
    ) -> None:
        self._url = url
        self._force = force
        self._resume = resume
        self._marks = marks(made_of) if made_of else ()
        self._fs, name = filesystem(url)
        self._bucket, self._key, _ = self._fs.split_path(name)
        if not self._key:
            raise PlanError(f"{url} names a bucket, and no object in it", hint="write s3://BUCKET/NAME")
        self._upload: str | None = None
        self._mark = digest(made_of) if made_of else os.urandom(16).hex()
        self._parts = Assembly()
        self._tags: dict[int, str] = {}
        #: Bytes of the parts that were stored before, by number.
        self._again: dict[int, int] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._running: set[Future[None]] = set()
        try:
            if not force and self._head() is not None:
                if resume and self._is_ours():
                    raise PlanError(f"{url} is complete: the dump to resume is there", hint="there is nothing to do")
                raise PlanError(f"{url} exists", hint="choose another name, or replace it with --force")
            self._found = unfinished(self._fs, self._bucket, self._key, self._marks) if resume and self._marks else None
            if self._found is None:
                self._upload = self._call("create_multipart_upload", Metadata={MARK: self._mark})["UploadId"]
            else:
                self._upload = self._found.id
        except PlanError:
            raise
        except Exception as error:  # botocore's, aiohttp's, s3fs's
            raise self._failed(error) from None

    def write(self, extent: Extent | Hole) -> None:
        try:
            for part in self._parts.add(extent):
                self._say_what_it_is()
                self._send(part)
        except ValueError as error:
            raise SinkError(f"cannot write {self._url}: {error}") from None

    def share(self) -> SharedParts:
        self._say_what_it_is()
        assert self._upload is not None
        return S3Parts(self._url, Upload(self._bucket, self._key, self._upload), self._found)

    def stored(self, number: int, token: str) -> None:
        try:
            self._parts.leave(number)
        except ValueError as error:
            raise SinkError(f"cannot write {self._url}: {error}") from None
        self._tags[number] = token
        if self._found is not None and (there := self._found.parts.get(number)) and there[1] == token:
            self._again[number] = there[0]

    def commit(self, size: int) -> None:
        try:
            for part in self._parts.finish(size):
                self._send(part)
            self._wait(0)
            self._complete()
            self.resumed_size = sum(self._again.values())
        except BaseException:
            self.abort()
            raise
        self._upload = None
        self.abort()

    def abort(self) -> None:
        self._parts = Assembly()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        kept = self._resume and (self._found is not None or self._tags)
        if self._upload is not None and not kept:
            with contextlib.suppress(Exception):
                self._call("abort_multipart_upload", UploadId=self._upload)
        self._upload = None

    def retract(self) -> None:
        with contextlib.suppress(Exception):
            if self._is_ours():
                self._call("delete_object")

    def _say_what_it_is(self) -> None:
        """Upload the marks by which another run knows this upload, once: an object of one part goes without."""
        try:
            for mark in self._marks if self._found is None else ():
                self._call("upload_part", UploadId=self._upload, PartNumber=mark.number, Body=mark.data)
        except Exception as error:  # botocore's, aiohttp's, s3fs's
            raise self._failed(error) from None
        self._marks = ()

    def _send(self, part: Part) -> None:
        """Upload a part, once fewer than :data:`AT_ONCE` are on their way."""
        self._wait(AT_ONCE - 1)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(AT_ONCE, "pydump-upload")
        self._running.add(self._pool.submit(self._upload_part, part))

    def _upload_part(self, part: Part) -> None:
        if self._found is not None and (tag := self._found.holds(part)) is not None:
            self._tags[part.number] = tag
            self._again[part.number] = len(part.data)
            return
        assert self._upload is not None
        self._tags[part.number] = Upload(self._bucket, self._key, self._upload).send(self._fs, part)

    def _wait(self, most: int) -> None:
        """Wait until at most so many parts are on their way.

        Raises:
            SinkError: One could not be uploaded.
        """
        from concurrent.futures import FIRST_COMPLETED, wait

        while len(self._running) > most:
            done, self._running = wait(self._running, return_when=FIRST_COMPLETED)
            for future in done:
                error = future.exception()
                if error is not None:
                    raise self._failed(error) from None

    def _complete(self) -> None:
        """Make the object from its parts. Without ``force``, no other object is replaced."""
        parts = [{"PartNumber": number, "ETag": self._tags[number]} for number in sorted(self._tags)]
        asked: dict[str, Any] = {"UploadId": self._upload, "MultipartUpload": {"Parts": parts}}
        try:
            if self._force:
                self._call("complete_multipart_upload", **asked)
                return
            try:
                self._call("complete_multipart_upload", IfNoneMatch="*", **asked)
            except Exception as error:
                if status_of(error) != 501:  # a store that does not know the condition
                    raise
                if self._head() is not None:
                    raise SinkError(_appeared(self._url), hint="use --force, or move it") from None
                self._call("complete_multipart_upload", **asked)
        except SinkError:
            raise
        except Exception as error:  # botocore's, aiohttp's, s3fs's
            if self._is_ours():  # it was done, and the answer was lost on its way
                return
            if status_of(error) in (409, 412) or code_of(error) in THERE or isinstance(error, FileExistsError):
                raise SinkError(_appeared(self._url), hint="use --force, or move it") from None
            raise self._failed(error) from None

    def _is_ours(self) -> bool:
        """Whether the object that is there was made by this upload."""
        try:
            found = self._head()
        except Exception:  # the store is gone
            return False
        return found is not None and found.get("Metadata", {}).get(MARK) == self._mark

    def _head(self) -> dict[str, Any] | None:
        """What the store says of the object, or None where there is none."""
        try:
            found: dict[str, Any] = self._call("head_object")
        except FileNotFoundError:
            return None
        return found

    def _call(self, operation: str, **asked: Any) -> dict[str, Any]:
        return call(self._fs, operation, Bucket=self._bucket, Key=self._key, **asked)

    def _failed(self, error: BaseException) -> SinkError:
        left = "; nothing appeared there" if self._upload is not None else ""
        hint = "is the store busy? try again later" if passes(error) else None
        return SinkError(f"cannot write {self._url}: {reason(error)}{left}", hint=hint)


def leftovers(url: str) -> Sequence[Leftover]:
    """Uploads below a URL that were begun and neither completed nor aborted, the oldest first.

    Raises:
        SourceError: The store does not say.
    """
    fs, name = filesystem(url)
    bucket, key, _ = fs.split_path(name)
    try:
        found = [_leftover(fs, bucket, upload) for upload in uploads(fs, bucket, key)]
    except Exception as error:  # botocore's, aiohttp's, s3fs's
        raise SourceError(f"cannot list the uploads of {url}: {reason(error)}") from None
    return sorted(found, key=lambda one: one.began)


def _leftover(fs: Any, bucket: str, upload: dict[str, Any]) -> Leftover:
    asked = {"Bucket": bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
    size = sum(part["Size"] for part in stored_parts(fs, bucket, upload))

    def remove() -> None:
        try:
            call(fs, "abort_multipart_upload", **asked)
        except Exception as error:  # botocore's, aiohttp's, s3fs's
            raise SinkError(f"cannot remove the parts of s3://{bucket}/{upload['Key']}: {reason(error)}") from None

    return Leftover(f"s3://{bucket}/{upload['Key']}", upload["Initiated"].timestamp(), size, remove)


def _appeared(url: str) -> str:
    return f"{url} appeared while the dump was written; nothing was replaced"
