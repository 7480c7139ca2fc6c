"""Requests to S3, from any thread."""

from __future__ import annotations

import asyncio
import io
from typing import Any

from pydump_storage_fsspec.remote import again


def call(fs: Any, operation: str, **asked: Any) -> dict[str, Any]:
    """Ask S3 for something, again where that may help; any thread may.

    Raises:
        Exception: botocore's, aiohttp's or s3fs's.
    """

    def once() -> dict[str, Any]:
        body = {"Body": io.BytesIO(asked["Body"])} if "Body" in asked else {}  # each attempt reads it from its begin
        pending = asyncio.run_coroutine_threadsafe(fs._call_s3(operation, **(asked | body)), fs.loop)
        answer: dict[str, Any] = pending.result()
        return answer

    return again(once)
