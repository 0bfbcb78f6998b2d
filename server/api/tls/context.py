"""OpenSSL's side: a context out of what was judged good, and one that can be swapped while the server listens."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from headway.server.api.tls.material import Material
from headway.server.config.tls import TlsConfig
from headway.server.errors import ConfigError

_VERIFY = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}


class SwappableContext(ssl.SSLContext):
    """For a listener: each new connection is wrapped by ``current``, and stays with it.

    A context of its own for each set of files, and not new files in the same one: that one would go on taking the session tickets of
    clients whose authority is gone.
    """

    current: ssl.SSLContext

    def __new__(cls, current: ssl.SSLContext) -> SwappableContext:
        made = super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)
        made.current = current
        return made

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        """What asyncio and uvloop call for a connection that has been accepted."""
        return self.current.wrap_bio(*args, **options)


def make_context(tls: TlsConfig, material: Material) -> ssl.SSLContext:
    """Raises ConfigError for what OpenSSL refuses."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if tls.ssl_ciphers is not None:
        try:
            context.set_ciphers(tls.ssl_ciphers)
        except (ssl.SSLError, ValueError) as problem:
            sentence = f"--ssl-ciphers {tls.ssl_ciphers!r}: OpenSSL knows no cipher of that name; `openssl ciphers -v` lists those it has"
            raise ConfigError([sentence]) from problem
    try:
        with _in_memory(material.certificates) as certfile, _in_memory(material.key) as keyfile:
            # An empty password, where there is none, keeps OpenSSL from asking for one on the terminal.
            context.load_cert_chain(certfile, keyfile, password=tls.ssl_keyfile_password or "")
    except ssl.SSLError as problem:
        sentence = f"--ssl-certfile {tls.ssl_certfile}: OpenSSL refuses this certificate or its key: {problem.reason or problem}"
        raise ConfigError([sentence]) from problem
    if material.authorities is not None:
        context.verify_mode = _VERIFY[tls.client_certificates]
        with _in_memory(material.authorities) as cafile:
            context.load_verify_locations(cafile)
    return context


@contextmanager
def _in_memory(content: bytes) -> Iterator[str]:
    """A path under which the ssl module, which takes files only, finds what was judged, and not what may stand on disk by now."""
    descriptor = os.memfd_create("tls")
    try:
        os.write(descriptor, content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
