"""An S3 server on this machine: moto's, as a process of its own.

Of the servers that could be taken it is the one that comes from the package registry that the tests need anyway, and
that starts in seconds without a disk, a cluster or root. Requests come over a socket, as those to a real store do; what
the proxy of these tests does to them, it does to them on the way.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from s3_proxy import Proxy

#: Seconds that the server may take to start, on a busy machine.
START = 60


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """The address of a server, which ends with the block."""
    command = [sys.executable, "-W", "ignore", "-u", "-c", "from moto.server import main; main()", "-p", "0"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=False)
    assert process.stderr is not None
    try:
        said, until = b"", time.monotonic() + START
        while not (found := re.search(rb"http://127\.0\.0\.1:(\d+)", said)):
            ready, _, _ = select.select([process.stderr], [], [], max(0, until - time.monotonic()))
            assert ready, f"the server did not start: {said!r}"
            piece = os.read(process.stderr.fileno(), 4096)
            assert piece, f"the server ended: {said!r}"
            said += piece
        log = Path("/dev/null").open("wb")  # noqa: SIM115  (what it says of each request is read, and dropped)
        drain = subprocess.Popen(["cat"], stdin=process.stderr, stdout=log)
        yield f"http://127.0.0.1:{int(found[1])}"
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
    drain.wait()
    log.close()


def credentials(server: str) -> dict[str, str]:
    """Where fsspec and botocore look for credentials and address."""
    return {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The address of the server of these tests."""
    with serving() as address:
        yield address


@pytest.fixture(scope="session")
def keys(server: str) -> Iterator[None]:
    """Credentials and address, where fsspec and botocore look for them."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in credentials(server).items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def boto(keys: None, server: str) -> Iterator[Any]:
    """Another program's client, which says what is in the store."""
    import boto3

    client = boto3.client("s3", endpoint_url=server)
    yield client
    client.close()


@pytest.fixture
def bucket(boto: Any, request: pytest.FixtureRequest) -> str:
    """A bucket for one test."""
    name = f"b{abs(hash(request.node.nodeid)):x}"[:40]
    boto.create_bucket(Bucket=name)
    return name


@pytest.fixture
def proxy(server: str, keys: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """What stands between pydump and the server."""
    from s3fs import S3FileSystem

    with Proxy(server) as made:
        monkeypatch.setenv("AWS_ENDPOINT_URL", made.url)
        S3FileSystem.clear_instance_cache()  # it keeps what is connected elsewhere
        yield made
        S3FileSystem.clear_instance_cache()
