"""Checksums as S3 gives them, against files."""

from __future__ import annotations

import base64
import hashlib
import zlib
from pathlib import Path
from typing import Any

import pytest

from headway.server.source.checksums import Checksum, checksum_of, digest_of

DATA = bytes(range(256)) * 40  # 10,240 bytes
PARTS = [DATA[:4096], DATA[4096:8192], DATA[8192:]]


def md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


PLAIN_MD5 = md5(DATA).hex()
PARTS_MD5 = md5(b"".join(map(md5, PARTS))).hex() + "-3"


def crc32(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "big")


def text(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def head(**fields: str) -> dict[str, Any]:
    return {"ContentLength": len(DATA), "ETag": '"0"', **fields}


def agrees(checksum: Checksum, path: Path) -> bool:
    return checksum.agrees([digest_of(path, checksum.algorithm, *piece) for piece in checksum.ranges(path.stat().st_size)])


@pytest.mark.parametrize(
    ("answer", "algorithm", "part_bytes"),
    [
        (head(ETag=f'"{PLAIN_MD5}"'), "MD5", None),
        (head(ETag=f'"{PLAIN_MD5}"', ServerSideEncryption="AES256"), "MD5", None),
        (head(ETag=f'"{PARTS_MD5}"'), "MD5", 4096),
        (head(ChecksumSHA256=text(hashlib.sha256(DATA).digest())), "SHA256", None),
        (head(ChecksumSHA1=text(hashlib.sha1(DATA, usedforsecurity=False).digest())), "SHA1", None),
        (head(ChecksumCRC32=text(crc32(DATA)), ETag=f'"{PARTS_MD5}"', ChecksumType="FULL_OBJECT"), "CRC32", None),
        (head(ChecksumCRC32=text(crc32(b"".join(map(crc32, PARTS)))) + "-3", ChecksumType="COMPOSITE"), "CRC32", 4096),
        # Of the parts, but without their number, as some stores give it: the ETag is as good.
        (head(ChecksumCRC32=text(crc32(b"".join(map(crc32, PARTS)))), ETag=f'"{PARTS_MD5}"'), "MD5", 4096),
    ],
)
def test_a_file_is_held_against_it(answer: dict[str, Any], algorithm: str, part_bytes: int | None, tmp_path: Path) -> None:
    checksum = checksum_of(answer, lambda: 4096)
    assert checksum is not None
    assert (checksum.algorithm, checksum.part_bytes) == (algorithm, part_bytes)
    path = tmp_path / "f"
    path.write_bytes(DATA)
    assert agrees(checksum, path)
    path.write_bytes(DATA[:5000] + b"\0" + DATA[5001:])
    assert not agrees(checksum, path)


@pytest.mark.parametrize(
    "answer",
    [
        head(),
        head(ETag=f'"{PLAIN_MD5}"', ServerSideEncryption="aws:kms"),
        head(ETag=f'"{PLAIN_MD5}"', SSECustomerAlgorithm="AES256"),
        # 10,240 bytes in parts of 4,096 are three, so these were not of one size.
        head(ETag=f'"{PARTS_MD5.removesuffix("3")}4"'),
        head(ChecksumSHA256="no base64"),
    ],
)
def test_none_that_can_be_computed(answer: dict[str, Any]) -> None:
    assert checksum_of(answer, lambda: 4096) is None


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    checksum = checksum_of({"ContentLength": 0, "ETag": f'"{md5(b"").hex()}"'}, lambda: 0)
    assert checksum is not None
    assert agrees(checksum, tmp_path / "f")


@pytest.mark.parametrize(("algorithm", "check"), [("CRC64NVME", 0xAE8B14860A799888), ("CRC32C", 0xE3069283)])
def test_sums_that_need_the_crt(algorithm: str, check: int, tmp_path: Path) -> None:
    """Against the check values of the algorithms' definitions, of the text 123456789."""
    pytest.importorskip("awscrt", reason="boto3[crt] is not installed")
    (tmp_path / "f").write_bytes(b"123456789")
    encoded = text(check.to_bytes(8 if algorithm == "CRC64NVME" else 4, "big"))
    checksum = checksum_of({"ContentLength": 9, "ETag": '"x-2"', f"Checksum{algorithm}": encoded, "ChecksumType": "FULL_OBJECT"}, lambda: 0)
    assert checksum is not None
    assert agrees(checksum, tmp_path / "f")
