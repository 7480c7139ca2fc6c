"""What every storage promises, of those that can be had on this machine."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pydump.interfaces.storage import Storage
from pydump.testing.storage import StorageTests
from pydump_storage_fsspec import MemoryStorage, S3Storage

NUMBERS = itertools.count()


class TestS3(StorageTests):
    storage: ClassVar[type[Storage]] = S3Storage

    @pytest.fixture(autouse=True)
    def store(self, boto: Any, bucket: str) -> None:
        self.boto, self.bucket = boto, bucket

    def example(self, tmp_path: Path) -> str:
        return f"s3://{self.bucket}/dir/vmcore-{next(NUMBERS)}"

    def written(self, url: str) -> bytes | None:
        key = url.removeprefix(f"s3://{self.bucket}/")
        found = self.boto.list_objects_v2(Bucket=self.bucket, Prefix=key).get("Contents", [])
        if not found:
            return None
        data: bytes = self.boto.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return data

    def test_abort_leaves_no_parts(self, tmp_path: Path) -> None:
        url = self.example(tmp_path)
        self.create(url).abort()
        assert self.storage.leftovers(f"s3://{self.bucket}") == []


class TestMemory(StorageTests):
    storage: ClassVar[type[Storage]] = MemoryStorage

    def example(self, tmp_path: Path) -> str:
        return f"memory://vmcore-{next(NUMBERS)}"
