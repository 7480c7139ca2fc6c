"""An S3 server, for all tests of this plugin."""

from __future__ import annotations

from s3_server import boto, bucket, keys, proxy, server  # noqa: F401
