"""S3 and SNS for the local runtime: those that the user names, or moto's server in this process, which ends with the runtime."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from headway.container.local.callers import refusal
from headway.server.errors import ConfigError

_URL = re.compile(r"https?://[^/\s]+(/\S*)?")
_DEFAULT_REGION = "us-east-1"
_CONNECTIONS = 32
# Signed with and never judged; moto has one account for everybody.
_OWN_KEY = "headway-local"
# Of moto's. Its others run containers (lambda, batch) and write files (moto_api), which is for nobody who finds the port. A topic's
# messages are read from a queue.
_SERVICES = frozenset({"s3", "sns", "sqs"})


@dataclass(frozen=True)
class Storage:
    """Where S3 and SNS are. The clients block: call them in a thread."""

    s3_url: str
    sns_url: str
    region: str
    own: frozenset[str]  # of the two URLs, those of our server

    @cached_property
    def s3(self) -> Any:
        return self._client("s3", self.s3_url, self.region)

    def publish(self, topic_arn: str, message: str) -> None:
        """Raises StorageError. A topic lives in the region that its ARN names."""
        from headway.container.local.s3_objects import explained

        with explained(topic_arn), contextlib.closing(self._client("sns", self.sns_url, topic_arn.split(":")[3])) as client:
            client.publish(TopicArn=topic_arn, Message=message)

    def _client(self, service: str, url: str, region: str) -> Any:
        import boto3
        from botocore.config import Config

        keys = {"aws_access_key_id": _OWN_KEY, "aws_secret_access_key": _OWN_KEY} if url in self.own else {}
        config = Config(
            retries={"mode": "standard", "total_max_attempts": 3},
            connect_timeout=5,
            read_timeout=60,
            max_pool_connections=_CONNECTIONS,
            # A store on this machine has no buckets as host names.
            s3={"addressing_style": "path"} if url in self.own else {},
        )
        return boto3.session.Session().client(service, endpoint_url=url, region_name=region, config=config, **keys)


@contextlib.contextmanager
def open_storage(environ: Mapping[str, str], s3_url: str | None = None, sns_url: str | None = None) -> Iterator[Storage]:
    """For the life of the runtime. A URL as an argument counts before AWS_ENDPOINT_URL_S3 and _SNS; for what has none, our server starts.

    Raises ConfigError.
    """
    named = {
        "S3": _checked(s3_url or environ.get("AWS_ENDPOINT_URL_S3"), "--s3-url or AWS_ENDPOINT_URL_S3"),
        "SNS": _checked(sns_url or environ.get("AWS_ENDPOINT_URL_SNS"), "--sns-url or AWS_ENDPOINT_URL_SNS"),
    }
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or _DEFAULT_REGION
    with contextlib.ExitStack() as stack:
        own = stack.enter_context(_own_server()) if None in named.values() else ""
        yield Storage(named["S3"] or own, named["SNS"] or own, region, frozenset({own}))


def _checked(url: str | None, where: str) -> str | None:
    if url and not _URL.fullmatch(url):
        raise ConfigError([f"{where}: {url!r} is no URL; write http://HOST:PORT, or https://s3.REGION.amazonaws.com for AWS itself"])
    return url.rstrip("/") if url else None


@contextlib.contextmanager
def _own_server() -> Iterator[str]:
    try:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
        from werkzeug.serving import make_server
    except ImportError as error:
        raise ConfigError(
            ["headway local keeps S3 and SNS with moto, which is not installed: pip install 'headway[toolkit]', or name them with --s3-url"]
        ) from error

    def backend(service: Any) -> Any:
        return create_backend_app(service) if service in _SERVICES else _not_here

    moto = DomainDispatcherApplication(backend)

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        named = {"host": "HTTP_HOST", "origin": "HTTP_ORIGIN", "sec-fetch-site": "HTTP_SEC_FETCH_SITE"}
        reason = refusal({name: environ[key] for name, key in named.items() if key in environ})
        return _refused(reason, start_response) if reason else moto(environ, start_response)

    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # it would write a line for each request
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=MotoRequestHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True, name="storage")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _not_here(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    return _refused(f"Here are {', '.join(sorted(_SERVICES))} alone.", start_response)


def _refused(reason: str, start_response: Any) -> list[bytes]:
    start_response("403 Forbidden", [("Content-Type", "application/xml"), ("Connection", "close")])
    text = f"<Error><Code>AccessDenied</Code><Message>{reason}</Message></Error>"
    return [text.encode()]
