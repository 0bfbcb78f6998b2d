"""The checksums that an S3 object comes with, and whether a file on this machine has them.

An object written in one piece has a checksum of all its bytes. One written in parts may instead have a checksum of its parts' checksums
("composite"), which the number of parts follows: MD5 in the ETag `9b2c...-7`, SHA-256 in `x-amz-checksum-sha256: 4Lz...=-7`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_BLOCK_BYTES = 4 << 20


class _RunningCrc:
    """A CRC function with the manner of hashlib: update, digest."""

    def __init__(self, crc: Callable[[bytes, int], int], num_bytes: int) -> None:
        self._crc = crc
        self._num_bytes = num_bytes
        self._value = 0

    def update(self, data: bytes) -> None:
        self._value = self._crc(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._num_bytes, "big")


def _algorithms() -> dict[str, Callable[[], Any]]:
    """Name -> maker of a running digest, for what can be computed here; the cheapest first."""
    found: dict[str, Callable[[], Any]] = {"CRC32": lambda: _RunningCrc(zlib.crc32, 4)}
    try:
        # Comes with boto3[crt]; it alone has S3's newer sums at speed.
        from awscrt import checksums as crt
    except ImportError:
        pass
    else:
        found["CRC64NVME"] = lambda: _RunningCrc(crt.crc64nvme, 8)
        found["CRC32C"] = lambda: _RunningCrc(crt.crc32c, 4)
    found["SHA256"] = hashlib.sha256
    found["SHA1"] = lambda: hashlib.sha1(usedforsecurity=False)
    found["MD5"] = lambda: hashlib.md5(usedforsecurity=False)
    return found


@dataclass(frozen=True)
class Checksum:
    """What an object's bytes must give: `digest` of all of them, or of the digests of its parts of `part_bytes` each."""

    algorithm: str
    digest: bytes
    part_bytes: int | None = None

    def ranges(self, size: int) -> list[tuple[int, int]]:
        """(start, number of bytes) of each piece of a file of `size` bytes whose digest `agrees` wants, in order."""
        step = self.part_bytes or max(size, 1)
        return [(start, min(step, size - start)) for start in range(0, max(size, 1), step)]

    def agrees(self, digests: Sequence[bytes]) -> bool:
        if self.part_bytes is None:
            return digests[0] == self.digest
        whole = _algorithms()[self.algorithm]()
        whole.update(b"".join(digests))
        return bool(whole.digest() == self.digest)


def digest_of(path: Path, algorithm: str, start: int, num_bytes: int) -> bytes:
    """The digest of a piece of a file."""
    running = _algorithms()[algorithm]()
    with open(path, "rb") as file:
        file.seek(start)
        while num_bytes and (block := file.read(min(num_bytes, _BLOCK_BYTES))):
            running.update(block)
            num_bytes -= len(block)
    return bytes(running.digest())


def checksum_of(head: Mapping[str, Any], first_part_bytes: Callable[[], int]) -> Checksum | None:
    """The checksum to hold a file against, of those in a HeadObject answer (with ChecksumMode ENABLED); None if none can be computed.

    `first_part_bytes` asks S3 for the size of the object's first part; the others but the last are taken to be as long.
    """
    size = int(head["ContentLength"])
    for algorithm in _algorithms():
        text = _md5_of(head) if algorithm == "MD5" else head.get(f"Checksum{algorithm}")
        if not text:
            continue
        encoded, _, num_parts = text.partition("-")
        digest = bytes.fromhex(encoded) if algorithm == "MD5" else _base64(encoded)
        if num_parts:
            part_bytes = first_part_bytes()
            # Parts of unequal sizes: their borders are not to be had.
            if digest and part_bytes > 0 and -(-size // part_bytes) == int(num_parts):
                return Checksum(algorithm, digest, part_bytes)
        elif digest and _is_of_all_bytes(head, algorithm):
            return Checksum(algorithm, digest)
    return None


def _md5_of(head: Mapping[str, Any]) -> str | None:
    """The ETag where it is an MD5: not where the bytes are encrypted with a key of KMS or the customer."""
    etag = str(head.get("ETag", "")).strip('"')
    encrypted = head.get("ServerSideEncryption") not in (None, "AES256") or "SSECustomerAlgorithm" in head
    return etag if not encrypted and re.fullmatch(r"[0-9a-f]{32}(-[1-9][0-9]{0,4})?", etag) else None


def _is_of_all_bytes(head: Mapping[str, Any], algorithm: str) -> bool:
    """Stores of other makes leave the type out, and some give the composite of an object in parts without the number of parts."""
    return algorithm == "MD5" or head.get("ChecksumType") == "FULL_OBJECT" or "-" not in str(head.get("ETag"))


def _base64(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return None
