"""What every storage promises, of those that can be had on this machine."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pydump.errors import SourceError
from pydump.interfaces.storage import Storage
from pydump.testing.storage import StorageTests
from pydump_storage_fsspec import HttpStorage, MemoryStorage, S3Storage

pytestmark = pytest.mark.slow

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


class TestHttp(StorageTests):
    """The S3 server is a web server, too."""

    storage: ClassVar[type[Storage]] = HttpStorage

    @pytest.fixture(autouse=True)
    def store(self, boto: Any, bucket: str, server: str) -> None:
        self.boto, self.bucket, self.server = boto, bucket, server

    def example(self, tmp_path: Path) -> str:
        return f"{self.server}/{self.bucket}/vmcore-{next(NUMBERS)}"

    def kept(self, tmp_path: Path, data: bytes) -> str:
        url = self.example(tmp_path)
        self.boto.put_object(Bucket=self.bucket, Key=url.rpartition("/")[2], Body=data, ACL="public-read")
        return url


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (
            "Content-Length: 9000000",
            "the server sends the whole file where a part is asked for; fetch it through a pipe",
        ),
        ("Connection: close", "the server does not say how long it is; fetch it through a pipe"),
    ],
)
def test_a_server_that_sends_no_parts_is_an_error(head: str, said: str) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/vmcore"

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    with client:
                        asked = client.recv(4096)
                        body = b"" if asked.startswith(b"HEAD") else bytes(9_000_000)
                        client.sendall(f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode() + body)

        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(SourceError, match=f"^{url}: {said}"), HttpStorage.reader(url) as backing:
            backing.read(0, 100)
