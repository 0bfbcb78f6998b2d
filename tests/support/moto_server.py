"""AWS on this machine: moto's server, and the variables that lead boto3 there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from moto.server import ThreadedMotoServer

REGION = "us-east-1"
KEYS = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing-secret"}


def environment(service: str, url: str) -> dict[str, str]:
    """The variables that make boto3 ask ``url`` for ``service``, as S3, and nobody else for anything."""
    return {
        f"AWS_ENDPOINT_URL_{service}": url,
        **{name.upper(): value for name, value in KEYS.items()},
        "AWS_DEFAULT_REGION": REGION,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@contextlib.contextmanager
def running_moto() -> Iterator[tuple[str, Any]]:
    """Its address, and the WSGI server, whose ``app`` may be put behind another."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    wsgi = server._server
    assert wsgi is not None
    try:
        yield f"http://{host}:{port}", wsgi
    finally:
        server.stop()
        wsgi.server_close()
