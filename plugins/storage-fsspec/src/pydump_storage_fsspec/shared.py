"""Parts of one upload to S3, from several processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydump.errors import PydumpError, SinkError
from pydump.interfaces.sink import SharedParts
from pydump_storage_fsspec.parts import Part, place_of
from pydump_storage_fsspec.remote import filesystem, passes, reason
from pydump_storage_fsspec.requests import call
from pydump_storage_fsspec.unfinished import Unfinished


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload that was begun.

    Attributes:
        bucket: Where it is.
        key: Of the object.
        id: What the store calls it.
    """

    bucket: str
    key: str
    id: str

    def asked(self) -> dict[str, str]:
        """How a request names it."""
        return {"Bucket": self.bucket, "Key": self.key, "UploadId": self.id}

    def send(self, fs: Any, part: Part) -> str:
        """Upload a part; its tag.

        Raises:
            Exception: botocore's, aiohttp's or s3fs's.
        """
        tag: str = call(fs, "upload_part", PartNumber=part.number, Body=part.data, **self.asked())["ETag"]
        return tag


@dataclass(frozen=True, slots=True)
class S3Parts(SharedParts):
    """An object that is being uploaded, for processes that have their own credentials.

    Attributes:
        url: What messages call it.
        upload: The upload.
        found: What an earlier run has stored of it.
    """

    url: str
    upload: Upload
    found: Unfinished | None

    def reached(self) -> bool:
        try:
            fs, _ = filesystem(self.url)
            call(fs, "list_parts", MaxParts=1, **self.upload.asked())
        except PydumpError:
            return False
        except Exception:  # botocore's, aiohttp's, s3fs's
            return False
        return True

    def part_at(self, offset: int) -> tuple[int, int, int]:
        return place_of(offset)

    def store(self, number: int, data: bytes | bytearray) -> str:
        part = Part(number, bytes(data))
        if self.found is not None and (tag := self.found.holds(part)) is not None:
            return tag
        fs, _ = filesystem(self.url)
        try:
            return self.upload.send(fs, part)
        except Exception as error:  # botocore's, aiohttp's, s3fs's
            hint = "is the store busy? try again later" if passes(error) else None
            raise SinkError(f"cannot write {self.url}: {reason(error)}; nothing appeared there", hint=hint) from None
