"""No web page starts anything: neither with requests of its own, nor under a name that was made to lead here."""

from __future__ import annotations

import httpx
import pytest
from botocore.exceptions import ClientError
from data_plane import Local
from local_runtime import aws

from headway.container.local.callers import refusal
from headway.container.local.storage import open_storage

_OF_PAGES = [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}, {"Host": "evil.example:8787"}]


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:8787", "localhost", "LOCALHOST.:1", "[::1]:8787", "10.0.0.7", "headway", "host.docker.internal:1", "b.localhost:5", ""],
)
def test_programs_are_answered(host: str) -> None:
    assert refusal({"host": host}) is None


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:1", "a@evil.example", "b.local", "[::1", ":80"]
)
def test_names_from_elsewhere_are_not(host: str) -> None:
    assert refusal({"host": host}) is not None


def test_the_name_of_the_option_is() -> None:
    assert refusal({"host": "gpu.Example.com:8787"}, "GPU.example.com") is None


def test_a_browsers_own_navigation_is() -> None:
    assert refusal({"host": "localhost", "sec-fetch-site": "none"}) is None


@pytest.mark.parametrize("headers", _OF_PAGES)
@pytest.mark.parametrize("path", ["/", "/endpoints/chat/invocations", "/endpoints/chat/openai/v1/chat/completions"])
def test_pages_call_nothing(runtime: Local, path: str, headers: dict[str, str]) -> None:
    before = len(runtime.container.arrived)
    headers = {"X-Amz-Target": "SageMaker.CreateModel", "Authorization": "Bearer any", "Content-Type": "text/plain", **headers}
    answer = httpx.post(f"{runtime.url}{path}", content=b"{}", headers=headers)
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers
    assert len(runtime.container.arrived) == before


@pytest.mark.parametrize("headers", _OF_PAGES)
def test_pages_read_no_objects(headers: dict[str, str]) -> None:
    with open_storage({}) as storage:
        aws("s3", storage.s3_url).create_bucket(Bucket="mine")
        answer = httpx.get(f"{storage.s3_url}/", headers=headers)
        assert answer.status_code == 403
        assert "mine" not in answer.text
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("path", ["/moto-api/data.json", "/moto-api/recorder/upload-recording", "/latest/meta-data/iam/"])
def test_motos_own_doors_are_shut(path: str) -> None:
    with open_storage({}) as storage:
        assert httpx.post(f"{storage.s3_url}{path}").status_code == 403


@pytest.mark.parametrize(("service", "operation"), [("lambda", "list_functions"), ("batch", "describe_jobs"), ("iam", "list_users")])
def test_services_that_run_things_are_not_there(service: str, operation: str) -> None:
    with open_storage({}) as storage:
        client = aws(service, storage.s3_url)
        arguments = {"jobs": ["x"]} if service == "batch" else {}
        with pytest.raises(ClientError) as caught:
            getattr(client, operation)(**arguments)
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
