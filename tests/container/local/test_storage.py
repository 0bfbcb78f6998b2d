"""S3 and SNS of the runtime's own, or the user's."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import pytest
from local_runtime import aws

from headway.container.local.s3_objects import S3Uri, StorageError, open_object
from headway.container.local.storage import open_storage
from headway.server.errors import ConfigError


def test_our_own_ends_with_the_runtime(capfd: pytest.CaptureFixture[str]) -> None:
    with open_storage({"AWS_REGION": "eu-west-1"}) as storage:
        assert storage.s3_url == storage.sns_url
        assert storage.region == "eu-west-1"
        place = urlsplit(storage.s3_url)
        assert place.hostname == "127.0.0.1"
        aws("s3", storage.s3_url).create_bucket(Bucket="mine")
        assert "mine" in [bucket["Name"] for bucket in storage.s3.list_buckets()["Buckets"]]
    assert "GET /" not in capfd.readouterr().err
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((place.hostname, place.port or 0), timeout=1)


def test_the_users_own_counts_first() -> None:
    with open_storage({"AWS_ENDPOINT_URL_S3": "http://a:1", "AWS_ENDPOINT_URL_SNS": "http://b:2/"}, s3_url="http://c:3/") as storage:
        assert (storage.s3_url, storage.sns_url) == ("http://c:3", "http://b:2")
        assert not {storage.s3_url, storage.sns_url} & storage.own


def test_only_what_is_missing_is_ours() -> None:
    with open_storage({"AWS_ENDPOINT_URL_S3": "http://a:1"}) as storage:
        assert storage.s3_url == "http://a:1"
        assert storage.sns_url in storage.own


def test_what_is_no_url() -> None:
    with (
        pytest.raises(ConfigError, match=r"--s3-url or AWS_ENDPOINT_URL_S3: 'minio:9000' is no URL"),
        open_storage({}, s3_url="minio:9000"),
    ):
        pass


def test_refusals_name_the_address() -> None:
    with open_storage({}) as storage:
        with pytest.raises(StorageError, match="s3://no-such-bucket/k: NoSuchBucket"):
            open_object(storage.s3, S3Uri("no-such-bucket", "k"))
        with pytest.raises(StorageError, match=r"arn:aws:sns:us-east-1:123456789012:none: NotFound"):
            storage.publish("arn:aws:sns:us-east-1:123456789012:none", "hello")
