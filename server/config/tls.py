"""Options about TLS: the server's certificate, and those of clients. What stands in the files is checked by server/api/tls/."""

from __future__ import annotations

from typing import Literal

from headway.server.config.fields import Topic, option

_WORDS = {"0": "none", "1": "optional", "2": "required"}


class TlsConfig(Topic):
    """TLS."""

    ssl_keyfile: str | None = option(
        None, "The certificate's private key, a PEM file; with --ssl-certfile it turns HTTPS on.", location=True
    )
    ssl_certfile: str | None = option(
        None, "The server's certificate, a PEM file, the intermediate ones behind it. TLS 1.2 and 1.3 are spoken.", location=True
    )
    ssl_keyfile_password: str | None = option(None, "The password of an encrypted --ssl-keyfile.", secret=True)
    ssl_ca_certs: str | None = option(None, "Certificates of authorities, a PEM file: who may sign a client's certificate.", location=True)
    ssl_cert_reqs: Literal["none", "optional", "required", "0", "1", "2"] = option(
        "none", "Whether clients need a certificate that --ssl-ca-certs vouch for: none (0), optional (1) or required (2)."
    )
    ssl_ciphers: str | None = option(None, "Ciphers of TLS 1.2, as OpenSSL spells them: ECDHE+AESGCM. Those of TLS 1.3 are fixed.")
    enable_ssl_refresh: bool = option(False, "Look for renewed files every few seconds; new connections get them, open ones go on.")

    @property
    def is_on(self) -> bool:
        return self.ssl_keyfile is not None and self.ssl_certfile is not None

    @property
    def client_certificates(self) -> str:
        """none, optional or required."""
        return _WORDS.get(self.ssl_cert_reqs, self.ssl_cert_reqs)


def tls_problems(tls: TlsConfig) -> list[str]:
    if not tls.is_on:
        return _problems_without_pair(tls)
    if tls.client_certificates != "none" and tls.ssl_ca_certs is None:
        return [f"--ssl-cert-reqs {tls.ssl_cert_reqs} asks clients for certificates: name who may sign them with --ssl-ca-certs"]
    return []


def _problems_without_pair(tls: TlsConfig) -> list[str]:
    if tls.ssl_keyfile is not None:
        return ["--ssl-keyfile needs the certificate of that key too: name it with --ssl-certfile"]
    if tls.ssl_certfile is not None:
        return ["--ssl-certfile needs the private key of that certificate too: name it with --ssl-keyfile"]
    others = ("ssl_keyfile_password", "ssl_ca_certs", "ssl_cert_reqs", "ssl_ciphers", "enable_ssl_refresh")
    given = [name for name in others if getattr(tls, name) != TlsConfig.model_fields[name].default]
    return [f"--{name.replace('_', '-')} needs TLS: turn it on with --ssl-certfile and --ssl-keyfile, or leave it out" for name in given]


def tls_warnings(tls: TlsConfig) -> list[str]:
    if tls.is_on and tls.ssl_ca_certs is not None and tls.client_certificates == "none":
        return ["--ssl-ca-certs has no effect: clients are asked for a certificate with --ssl-cert-reqs optional or required only"]
    return []
