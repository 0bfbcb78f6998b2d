"""The files of --ssl-keyfile, --ssl-certfile and --ssl-ca-certs: read at one moment, and judged before OpenSSL gets them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509 import Certificate, load_pem_x509_certificates

from headway.server.config.tls import TlsConfig
from headway.server.errors import ConfigError

_MAX_BYTES = 4 * 1024 * 1024
_SOON = timedelta(days=14)


class Material(NamedTuple):
    """What stands in the files."""

    key: bytes
    certificates: bytes
    authorities: bytes | None


class Judgement(NamedTuple):
    """``expires_at``: the first moment at which one of the server's certificates is no longer valid."""

    expires_at: datetime
    warnings: list[str]


class _Fault(Exception):
    """Why a file can't be used, in a sentence."""


def read_material(tls: TlsConfig) -> Material:
    """Raises ConfigError with a sentence for each file that can't be read."""
    faults: list[str] = []
    contents: dict[str, bytes] = {}
    for flag, path in (("ssl-keyfile", tls.ssl_keyfile), ("ssl-certfile", tls.ssl_certfile), ("ssl-ca-certs", tls.ssl_ca_certs)):
        try:
            if path is not None:
                contents[flag] = _content(path)
        except _Fault as fault:
            faults.append(f"--{flag} {path}: {fault}")
    if faults:
        raise ConfigError(faults)
    return Material(contents["ssl-keyfile"], contents["ssl-certfile"], contents.get("ssl-ca-certs"))


def judge(tls: TlsConfig, material: Material, now: datetime) -> Judgement:
    """Raises ConfigError with a sentence for each thing that keeps the files from being used, and what to do about it."""
    faults: list[str] = []
    key: PrivateKeyTypes | None = None
    certificates: list[Certificate] = []
    try:
        key = _key(material.key, tls.ssl_keyfile_password)
    except _Fault as fault:
        faults.append(f"--ssl-keyfile {tls.ssl_keyfile}: {fault}")
    try:
        certificates = _certificates(material.certificates)
        faults += [f"--ssl-certfile {tls.ssl_certfile}: {sentence}" for sentence in _not_valid(certificates, now)]
    except _Fault as fault:
        faults.append(f"--ssl-certfile {tls.ssl_certfile}: {fault}")
    if key is not None and certificates and (sentence := _mismatch(key, certificates)):
        faults.append(f"--ssl-keyfile {tls.ssl_keyfile} and --ssl-certfile {tls.ssl_certfile}: {sentence}")
    if material.authorities is not None:
        try:
            _judge_authorities(material.authorities, now)
        except _Fault as fault:
            faults.append(f"--ssl-ca-certs {tls.ssl_ca_certs}: {fault}")
    if faults:
        raise ConfigError(faults)
    expires_at = min(certificate.not_valid_after_utc for certificate in certificates)
    soon = [f"--ssl-certfile {tls.ssl_certfile}: expires on {_day(expires_at)}: renew it"] if expires_at - now < _SOON else []
    return Judgement(expires_at, soon)


def _content(path: str) -> bytes:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would hold up the start
            raise _Fault("is no file")
        with Path(path).open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except PermissionError:
        raise _Fault(f"cannot be read by uid {os.geteuid()}, gid {os.getegid()}: let the server's user read it, or its group") from None
    except (OSError, ValueError) as problem:  # ValueError: a NUL in the path
        raise _Fault(f"cannot be read: {getattr(problem, 'strerror', None) or problem}") from problem
    if len(content) > _MAX_BYTES:
        raise _Fault(f"is larger than {_MAX_BYTES // 1024**2} MiB, so that it is something else")
    if b"-----BEGIN " not in content:
        what = "is empty" if not content.strip() else "is not PEM, which has a line -----BEGIN ...-----"
        raise _Fault(f"{what}; `openssl x509` and `openssl pkey` turn DER into PEM with -inform der")
    return content


def _key(content: bytes, password: str | None) -> PrivateKeyTypes:
    if b"PRIVATE KEY-----" not in content:
        other = ": it holds a certificate; are --ssl-keyfile and --ssl-certfile swapped?" if b"BEGIN CERTIFICATE" in content else ""
        raise _Fault(f"holds no private key{other}")
    is_encrypted = b"ENCRYPTED" in content
    if is_encrypted and password is None:
        raise _Fault("is encrypted: give its password with --ssl-keyfile-password, or a key without one")
    try:
        return load_pem_private_key(content, password.encode() if is_encrypted and password is not None else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as problem:
        if is_encrypted:
            raise _Fault("cannot be decrypted with --ssl-keyfile-password: the password is wrong, or the file broken") from problem
        raise _Fault("its private key cannot be read: the file is cut off or broken, or of a kind that is not supported") from problem


def _certificates(content: bytes) -> list[Certificate]:
    if b"BEGIN CERTIFICATE-----" not in content:
        other = ": it holds a private key; are --ssl-keyfile and --ssl-certfile swapped?" if b"PRIVATE KEY-----" in content else ""
        raise _Fault(f"holds no certificate{other}")
    try:
        return load_pem_x509_certificates(content)
    except ValueError as problem:
        raise _Fault("a certificate in it cannot be read: the file is cut off or broken") from problem


def _mismatch(key: PrivateKeyTypes, certificates: list[Certificate]) -> str | None:
    wanted = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    matching = [c.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == wanted for c in certificates]
    if matching[0]:
        return None
    if any(matching):
        return "the key is that of a later certificate in the file: the server's own must come first, those of authorities behind it"
    return f"key and certificate do not match: the certificate of {_name(certificates[0])} was made for another key"


def _not_valid(certificates: list[Certificate], now: datetime) -> Iterator[str]:
    for certificate in certificates:
        whose = "" if certificate is certificates[0] else f"in its chain that of {_name(certificate)} "
        if certificate.not_valid_after_utc < now:
            yield f"{whose}expired on {_day(certificate.not_valid_after_utc)}: renew it"
        elif certificate.not_valid_before_utc > now:
            yield f"{whose}is not valid before {_day(certificate.not_valid_before_utc)}: wait, or set this machine's clock right"


def _judge_authorities(content: bytes, now: datetime) -> None:
    authorities = _certificates(content)
    ends = [authority.not_valid_after_utc for authority in authorities]
    if max(ends) < now:
        raise _Fault(f"every certificate in it has expired, the last on {_day(max(ends))}: renew them")


def _name(certificate: Certificate) -> str:
    return certificate.subject.rfc4514_string() or "a nameless subject"


def _day(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
