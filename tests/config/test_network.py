"""What is said of options of network and TLS that can't be used, or not together."""

from __future__ import annotations

import pytest

from headway.server.config.sources import resolve
from headway.server.config.tls import TlsConfig
from headway.server.errors import ConfigError

PAIR = ["--ssl-keyfile", "k.pem", "--ssl-certfile", "c.pem"]
TURN_ON = "turn it on with --ssl-certfile and --ssl-keyfile, or leave it out"


@pytest.mark.parametrize(
    ("argv", "problems"),
    [
        (["--uds", "/" + "x" * 107], ["--uds has 108 bytes, and a socket's path 107 at most: choose a shorter one"]),
        (["--uds", "/" + "é" * 54], ["--uds has 109 bytes, and a socket's path 107 at most: choose a shorter one"]),
        (["--uds", "/s", "--uds-permissions", "rw"], ["--uds-permissions must be three octal digits, such as 660, got 'rw'"]),
        (["--uds", "/s", "--uds-permissions", "988"], ["--uds-permissions must be three octal digits, such as 660, got '988'"]),
        (["--uds-permissions", "660"], ["--uds-permissions is for the socket of --uds, which is not given: give both or neither"]),
        (["--ssl-keyfile", "k"], ["--ssl-keyfile needs the certificate of that key too: name it with --ssl-certfile"]),
        (["--ssl-certfile", "c"], ["--ssl-certfile needs the private key of that certificate too: name it with --ssl-keyfile"]),
        (["--ssl-ca-certs", "a", "--ssl-cert-reqs", "2"],
         [f"--ssl-ca-certs needs TLS: {TURN_ON}", f"--ssl-cert-reqs needs TLS: {TURN_ON}"]),
        (["--enable-ssl-refresh", "--ssl-ciphers", "x", "--ssl-keyfile-password", "p"],
         [f"--{name} needs TLS: {TURN_ON}" for name in ("ssl-keyfile-password", "ssl-ciphers", "enable-ssl-refresh")]),
        ([*PAIR, "--ssl-cert-reqs", "1"],
         ["--ssl-cert-reqs 1 asks clients for certificates: name who may sign them with --ssl-ca-certs"]),
        ([*PAIR, "--ssl-cert-reqs", "3"], ["--ssl-cert-reqs: expected one of none, optional, required, 0, 1, 2, got '3'"]),
        (["--port", "443"], ["--port: expected a whole number from 1024 to 65535, got '443'"]),
        (["--h11-max-header-count", "0"], ["--h11-max-header-count: expected a whole number of at least 1, got '0'"]),
    ],
)  # fmt: skip
def test_problems(argv: list[str], problems: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(["demo", *argv], {})
    assert caught.value.problems == problems


def test_authorities_that_nobody_asks_about_are_warned_about() -> None:
    sentence = "--ssl-ca-certs has no effect: clients are asked for a certificate with --ssl-cert-reqs optional or required only"
    assert resolve(["demo", *PAIR, "--ssl-ca-certs", "a"], {}).warnings == (sentence,)
    assert resolve(["demo", *PAIR, "--ssl-ca-certs", "a", "--ssl-cert-reqs", "optional"], {}).warnings == ()


@pytest.mark.parametrize(
    ("text", "word"), [("0", "none"), ("1", "optional"), ("2", "required"), ("Required", "required"), ("none", "none")]
)
def test_both_spellings_of_cert_reqs(text: str, word: str) -> None:
    argv = ["demo", *PAIR, "--ssl-ca-certs", "a", "--ssl-cert-reqs", text]
    assert resolve(argv, {}).config.tls.client_certificates == word


def test_the_key_alone_is_no_tls() -> None:
    assert not TlsConfig(ssl_keyfile="k").is_on
    assert TlsConfig(ssl_keyfile="k", ssl_certfile="c").is_on


def test_keep_alive_has_the_name_of_old_too() -> None:
    assert resolve(["demo"], {"VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "5"}).config.connections.http_keep_alive_s == 5
