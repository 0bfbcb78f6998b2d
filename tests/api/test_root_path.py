"""Behind a proxy that strips a prefix: the pages that name routes name them with it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from api_server import ApiServer


@pytest.fixture(scope="module", params=["/llm", "/llm/"])
def server(request: pytest.FixtureRequest) -> Iterator[ApiServer]:
    with ApiServer(network={"root_path": request.param}, security={"api_key": ["k"]}) as server:
        yield server


KEY = {"authorization": "Bearer k"}


def test_the_documents_name_the_prefix(server: ApiServer) -> None:
    assert server.client.get("/openapi.json", headers=KEY).json()["servers"] == [{"url": "/llm"}]
    assert "'/llm/openapi.json'" in server.client.get("/docs", headers=KEY).text
    assert "/llm/openapi.json" in server.client.get("/redoc", headers=KEY).text


def test_routes_are_where_the_proxy_sends_them(server: ApiServer) -> None:
    for path in ("/ping", "/health", "/metrics", "/version"):
        assert server.client.get(path).status_code == 200, path
    assert server.client.get("/v1/models").status_code == 401
    assert server.client.get("/v1/models", headers=KEY).json()["data"][0]["id"] == "tiny"
    assert server.post("/v1/completions", {"prompt": "x"}, headers=KEY).status_code == 200
    assert server.client.get("/nowhere", headers=KEY).status_code == 404
