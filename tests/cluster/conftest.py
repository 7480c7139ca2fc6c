"""An S3 server, to which clusters write."""

from __future__ import annotations

from s3_server import boto, bucket, keys, proxy, server  # noqa: F401
