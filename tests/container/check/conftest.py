"""The S3 of this machine, for the tests that ask one."""

from __future__ import annotations

from s3_server import s3, shared_s3

__all__ = ["s3", "shared_s3"]
