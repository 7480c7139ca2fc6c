"""What another program finds in a store."""

from __future__ import annotations

import io
from typing import Any


def content(boto: Any, bucket: str, key: str) -> bytes:
    with io.BytesIO() as kept:
        boto.download_fileobj(bucket, key, kept)
        return kept.getvalue()


def names(boto: Any, bucket: str) -> list[str]:
    return [found["Key"] for found in boto.list_objects_v2(Bucket=bucket).get("Contents", [])]


def uploads(boto: Any, bucket: str) -> list[str]:
    return [found["Key"] for found in boto.list_multipart_uploads(Bucket=bucket).get("Uploads", [])]
