"""Uploads that were begun and not completed: what they are made of, and which of their parts can be used.

A store says of the parts of an upload their number, size and entity tag, and gives out nothing else before it is
completed. So what an upload is made of is written as small parts with the highest numbers, which the completed object
leaves out: it is known by their tags, nobody sees it, and it goes where the upload goes. The tag of a part is its MD5;
where a store has others (as S3 does for keys of KMS), nothing is found again, and all is uploaded once more.

Source: Amazon S3 API Reference, ListMultipartUploads, ListParts, CompleteMultipartUpload; Amazon S3 User Guide,
"Multipart upload limits": part numbers go up to 10,000.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydump.errors import PlanError
from pydump_storage_fsspec.parts import MOST, Part
from pydump_storage_fsspec.requests import call

#: The highest number that a part can have.
LAST: Final = 10_000


@dataclass(frozen=True, slots=True)
class Mark:
    """A part that says something of what an upload is made of.

    Attributes:
        number: Its number.
        what: What it says something of, as the user calls it.
        data: Its bytes.
    """

    number: int
    what: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Unfinished:
    """An upload that can be continued.

    Attributes:
        id: What the store calls it.
        parts: By the number of the part, its size and tag.
    """

    id: str
    parts: Mapping[int, tuple[int, str]]

    def holds(self, part: Part) -> str | None:
        """The tag of a part that is stored with these very bytes, or None."""
        size, tag = self.parts.get(part.number, (-1, ""))
        return tag if size == len(part.data) and _tag(tag) == _md5(part.data) else None


def marks(made_of: Mapping[str, str]) -> tuple[Mark, ...]:
    """What says of an upload what it is made of; see :meth:`pydump.interfaces.storage.Storage.resumable`."""
    found = tuple(
        Mark(LAST - i, what, f"{what}: {hashlib.sha256(text.encode()).hexdigest()}\n".encode())
        for i, (what, text) in enumerate(sorted(made_of.items()))
    )
    assert len(found) <= LAST - MOST
    return found


def digest(made_of: Mapping[str, str]) -> str:
    """A word for all of it."""
    return hashlib.sha256(b"".join(mark.data for mark in marks(made_of))).hexdigest()[:32]


def unfinished(fs: Any, bucket: str, key: str, wanted: Sequence[Mark]) -> Unfinished | None:
    """The upload to continue: of those that are made of the same the one that has most; None where there is none.

    Raises:
        PlanError: There are some, and they are made of something else.
        Exception: The store does not say.
    """
    fitting: list[Unfinished] = []
    changed: set[str] = set()
    for upload in uploads(fs, bucket, key):
        if upload["Key"] != key:
            continue
        parts = {part["PartNumber"]: (part["Size"], part["ETag"]) for part in stored_parts(fs, bucket, upload)}
        differ = [mark.what for mark in wanted if _tag(parts.get(mark.number, (0, ""))[1]) != _md5(mark.data)]
        if not differ:
            fitting.append(Unfinished(upload["UploadId"], parts))
        elif all(mark.number in parts for mark in wanted):  # else it was killed before it could be of use
            changed |= set(differ)
    if not fitting and changed:
        url = f"s3://{bucket}/{key}"
        raise PlanError(
            f"{url} cannot be resumed: since it was begun, {' and '.join(sorted(changed))} changed",
            hint=f"leave --resume out to begin anew; pydump storage clean {url} --remove removes what is left",
        )
    return max(fitting, key=lambda one: sum(size for size, _ in one.parts.values()), default=None)


def uploads(fs: Any, bucket: str, prefix: str) -> Iterator[dict[str, Any]]:
    """What the store says of each upload whose key begins with ``prefix``."""
    marker: dict[str, Any] = {}
    while True:
        answer = call(fs, "list_multipart_uploads", Bucket=bucket, Prefix=prefix, **marker)
        yield from answer.get("Uploads", ())
        if not answer.get("IsTruncated"):
            return
        marker = {"KeyMarker": answer["NextKeyMarker"], "UploadIdMarker": answer["NextUploadIdMarker"]}


def stored_parts(fs: Any, bucket: str, upload: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What the store says of each part of an upload."""
    asked = {"Bucket": bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
    marker = 0
    while True:
        answer = call(fs, "list_parts", PartNumberMarker=marker, **asked)
        yield from answer.get("Parts", ())
        if not answer.get("IsTruncated"):
            return
        marker = answer["NextPartNumberMarker"]


def _tag(stated: str) -> str:
    return stated.strip('"')


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
