"""What is wrong with a key, a certificate or an authority, in the words that an operator reads; and what is right."""

from __future__ import annotations

import os
import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme
from certificates import DAY, Authority, TlsFiles
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from headway.server.api.tls.material import judge, read_material
from headway.server.api.tls.server_tls import ServerTls
from headway.server.config.tls import TlsConfig
from headway.server.errors import ConfigError

AUTHORITY = Authority()
GOOD = AUTHORITY.identity()


@pytest.fixture
def files(tmp_path: Path) -> TlsFiles:
    return TlsFiles(tmp_path, GOOD)


def told(files: TlsFiles, **more: object) -> list[str]:
    """The sentences of a refusal, without the directory."""
    with pytest.raises(ConfigError) as caught:
        ServerTls(TlsConfig.model_validate({**files.options, **more}))
    return [problem.replace(f"{files.key.parent}/", "") for problem in caught.value.problems]


def openssl(*words: str, given: bytes | None = None) -> bytes:
    return subprocess.run(["openssl", *words], input=given, capture_output=True, timeout=120, check=True).stdout


@pytest.mark.parametrize("kind", list(trustme.KeyType))
def test_good_files(files: TlsFiles, kind: trustme.KeyType) -> None:
    files.put(trustme.CA(key_type=kind).issue_cert("localhost", key_type=kind))
    judged = judge(TlsConfig(**files.options), read_material(TlsConfig(**files.options)), datetime.now(UTC))
    (certificate,) = x509.load_pem_x509_certificates(files.certificate.read_bytes())
    assert judged == (certificate.not_valid_after_utc, [])
    assert ServerTls(TlsConfig(**files.options)).expires_at() == certificate.not_valid_after_utc.timestamp()


def test_a_missing_file_a_directory_and_a_pipe(files: TlsFiles) -> None:
    files.key.unlink()
    files.certificate.unlink()
    files.certificate.mkdir()
    os.mkfifo(files.authorities)
    assert told(files, ssl_ca_certs=str(files.authorities), ssl_cert_reqs="1") == [
        "--ssl-keyfile key.pem: cannot be read: No such file or directory",
        "--ssl-certfile cert.pem: is no file",
        "--ssl-ca-certs ca.pem: is no file",
    ]
    assert "embedded null" in told(files, ssl_keyfile="a\0b")[0]


def test_a_file_that_may_not_be_read() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        files = TlsFiles(Path(folder), GOOD)
        files.key.chmod(0)
        user = os.geteuid()
        os.seteuid(user or 65534)  # root may read everything
        try:
            (problem,) = told(files)
        finally:
            os.seteuid(user)
    who = f"uid {user or 65534}, gid {os.getegid()}"
    assert problem == f"--ssl-keyfile key.pem: cannot be read by {who}: let the server's user read it, or its group"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("key", b"", "--ssl-keyfile key.pem: is empty; "),
        ("key", b"junk", "--ssl-keyfile key.pem: is not PEM, which has a line -----BEGIN ...-----; "),
        ("key", GOOD.cert_chain_pems[0].bytes(), "--ssl-keyfile key.pem: holds no private key: it holds a certificate; are "),
        ("key", GOOD.private_key_pem.bytes()[:150], "--ssl-keyfile key.pem: its private key cannot be read: the file is cut off or "),
        ("certificate", GOOD.private_key_pem.bytes(), "--ssl-certfile cert.pem: holds no certificate: it holds a private key; are "),
        ("certificate", GOOD.cert_chain_pems[0].bytes()[:300], "--ssl-certfile cert.pem: a certificate in it cannot be read: the "),
        ("authorities", GOOD.private_key_pem.bytes(), "--ssl-ca-certs ca.pem: holds no certificate: it holds a private key; "),
        ("authorities", b"junk", "--ssl-ca-certs ca.pem: is not PEM"),
    ],
)
def test_files_with_something_else_in_them(files: TlsFiles, name: str, content: bytes, sentence: str) -> None:
    files.authorities.write_bytes(AUTHORITY.pem)
    getattr(files, name).write_bytes(content)
    (problem,) = told(files, ssl_ca_certs=str(files.authorities), ssl_cert_reqs="required")
    assert problem.startswith(sentence)


def test_der_is_not_pem(files: TlsFiles) -> None:
    files.certificate.write_bytes(openssl("x509", "-outform", "der", given=files.certificate.read_bytes()))
    assert told(files) == [
        "--ssl-certfile cert.pem: is not PEM, which has a line -----BEGIN ...-----; "
        "`openssl x509` and `openssl pkey` turn DER into PEM with -inform der"
    ]


def test_a_key_of_another_certificate(files: TlsFiles) -> None:
    files.key.write_bytes(AUTHORITY.identity().private_key_pem.bytes())
    (problem,) = told(files)
    assert problem.startswith("--ssl-keyfile key.pem and --ssl-certfile cert.pem: key and certificate do not match: the certificate of ")
    assert problem.endswith(" was made for another key")


def test_a_chain_in_the_wrong_order(files: TlsFiles) -> None:
    files.certificate.write_bytes(AUTHORITY.pem + GOOD.cert_chain_pems[0].bytes())
    (problem,) = told(files)
    assert "the server's own must come first" in problem
    files.certificate.write_bytes(GOOD.cert_chain_pems[0].bytes() + AUTHORITY.pem)
    assert ServerTls(TlsConfig(**files.options))


@pytest.mark.parametrize(
    ("since", "until", "sentence"),
    [
        (-9 * DAY, -DAY, "expired on {until:%Y-%m-%d %H:%M} UTC: renew it"),
        (2 * DAY, 9 * DAY, "is not valid before {since:%Y-%m-%d %H:%M} UTC: wait, or set this machine's clock right"),
    ],
)
def test_certificates_out_of_their_time(files: TlsFiles, since: object, until: object, sentence: str) -> None:
    identity = AUTHORITY.identity(since=since, until=until)  # type: ignore[arg-type]
    files.put(identity)
    (certificate,) = x509.load_pem_x509_certificates(files.certificate.read_bytes())
    shown = sentence.format(since=certificate.not_valid_before_utc, until=certificate.not_valid_after_utc)
    assert told(files) == [f"--ssl-certfile cert.pem: {shown}"]
    # Behind a good one it breaks the chain, and is named.
    files.put(GOOD)
    with files.certificate.open("ab") as chain:
        chain.write(identity.cert_chain_pems[0].bytes())
    (problem,) = told(files)
    assert problem == f"--ssl-certfile cert.pem: in its chain that of {certificate.subject.rfc4514_string()} {shown}"


def test_authorities_that_have_all_expired(files: TlsFiles) -> None:
    old = AUTHORITY.identity(since=-9 * DAY, until=-DAY).cert_chain_pems[0].bytes()
    files.authorities.write_bytes(old)
    more = {"ssl_ca_certs": str(files.authorities), "ssl_cert_reqs": "required"}
    assert told(files, **more)[0].startswith("--ssl-ca-certs ca.pem: every certificate in it has expired, the last on ")
    files.authorities.write_bytes(old + AUTHORITY.pem)
    assert ServerTls(TlsConfig.model_validate({**files.options, **more}))


def test_a_certificate_that_expires_soon_is_warned_about(files: TlsFiles, caplog: pytest.LogCaptureFixture) -> None:
    for days, warnings in ((13, 1), (15, 0)):
        caplog.clear()
        files.put(AUTHORITY.identity(until=days * DAY))
        ServerTls(TlsConfig(**files.options))
        assert [": renew it" in record.message for record in caplog.records] == [True] * warnings


def test_all_that_is_wrong_at_once(files: TlsFiles) -> None:
    files.put(AUTHORITY.identity(since=-9 * DAY, until=-DAY))
    files.key.write_bytes(b"-----BEGIN NOTHING-----")
    assert [problem.partition(": ")[0] for problem in told(files)] == ["--ssl-keyfile key.pem", "--ssl-certfile cert.pem"]


@pytest.mark.parametrize("form", ["pkcs8", "traditional"])
def test_an_encrypted_key(files: TlsFiles, form: str) -> None:
    plain = files.key.read_bytes()
    kind = serialization.PrivateFormat.PKCS8 if form == "pkcs8" else serialization.PrivateFormat.TraditionalOpenSSL
    key = serialization.load_pem_private_key(plain, None)
    locked = key.private_bytes(serialization.Encoding.PEM, kind, serialization.BestAvailableEncryption(b"s3cret"))
    files.key.write_bytes(locked)
    assert told(files) == ["--ssl-keyfile key.pem: is encrypted: give its password with --ssl-keyfile-password, or a key without one"]
    assert "wrong" in told(files, ssl_keyfile_password="other")[0]
    assert "other" not in told(files, ssl_keyfile_password="other")[0]
    assert ServerTls(TlsConfig(**files.options, ssl_keyfile_password="s3cret"))
    files.key.write_bytes(plain)
    assert ServerTls(TlsConfig(**files.options, ssl_keyfile_password="s3cret")), "a password for a key without one does no harm"


def test_ciphers(files: TlsFiles) -> None:
    assert ServerTls(TlsConfig(**files.options, ssl_ciphers="ECDHE+AESGCM"))
    assert told(files, ssl_ciphers="ROT13") == [
        "--ssl-ciphers 'ROT13': OpenSSL knows no cipher of that name; `openssl ciphers -v` lists those it has"
    ]


def test_a_key_too_weak_for_openssl(files: TlsFiles) -> None:
    weak = ["req", "-x509", "-newkey", "rsa:512", "-nodes", "-subj", "/CN=x", "-days", "9", "-keyout", str(files.key), "-out", "-"]
    files.certificate.write_bytes(openssl(*weak))
    (problem,) = told(files)
    assert problem.startswith("--ssl-certfile cert.pem: OpenSSL refuses this certificate or its key: ")
