"""Servers that are the ready endpoints of a Service, watched at an API server with TLS and tokens."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import kubernetes_validate
import pytest
import yaml
from kubernetes_api_server import LIST_PATH, KubernetesApiServer, endpoint_slice, kubernetes_api_server
from routed import ask, routed, small_server, until

from headway.server.errors import ConfigError
from headway.server.router.sources import kubernetes
from headway.server.router.sources.kubernetes import KubernetesService
from headway.server.router.sources.kubernetes_api import KubernetesApi

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes, "_FIRST_PAUSE_S", 0.005)
    monkeypatch.setattr(kubernetes, "_LONGEST_PAUSE_S", 0.005)


@asynccontextmanager
async def watching(
    api: KubernetesApiServer, account: Path, name: str = "llm.models", port: int | None = None
) -> AsyncIterator[list[list[str]]]:
    """What a source tells, as it tells it."""
    told: list[list[str]] = []
    source = KubernetesService(KubernetesApi(api.url, account), name, port)
    task = asyncio.create_task(source.run(told.append))
    try:
        yield told
    finally:
        assert not task.done()
        task.cancel()


def slices(*ready: str, late: tuple[str, ...] = (), port: int = 8080, name: str = "llm-a") -> dict[str, Any]:
    return endpoint_slice(name, "llm", dict.fromkeys(ready, True) | dict.fromkeys(late, False), port)


async def last(told: list[list[str]], *urls: str) -> None:
    await until(lambda: told and told[-1] == list(urls))


def test_ready_endpoints_come_and_go(tmp_path: Path) -> None:
    async def main() -> None:
        async with kubernetes_api_server(tmp_path) as api:
            await api.put(slices("10.0.0.1", late=("10.0.0.2",)))
            await api.put(endpoint_slice("other", "another-service", {"10.0.0.9": True}, 8080))
            async with watching(api, tmp_path) as told:
                await last(told, "http://10.0.0.1:8080")
                await api.put(slices("10.0.0.1", "10.0.0.2"))
                await last(told, "http://10.0.0.1:8080", "http://10.0.0.2:8080")
                await api.put(slices("10.0.0.3", name="llm-b"))
                await last(told, *(f"http://10.0.0.{number}:8080" for number in (1, 2, 3)))
                await api.remove("llm-a")
                await last(told, "http://10.0.0.3:8080")
                await api.put(slices(late=("10.0.0.3",), name="llm-b"))
                await last(told)
            assert api.num_lists == 1, "the rest was watched"

    asyncio.run(main())


def test_an_endpoint_that_says_nothing_is_ready_and_ipv4_goes_before_ipv6(tmp_path: Path) -> None:
    async def main() -> None:
        async with kubernetes_api_server(tmp_path) as api:
            await api.put(endpoint_slice("llm-6", "llm", {"fd00::1": None}, 8080, "IPv6"))
            async with watching(api, tmp_path, "llm") as told:  # of the pod's own namespace
                await last(told, "http://[fd00::1]:8080")
                await api.put(endpoint_slice("llm-4", "llm", {"10.0.0.1": None}, 8080))
                await last(told, "http://10.0.0.1:8080")

    asyncio.run(main())


def test_a_version_that_has_expired_is_listed_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with kubernetes_api_server(tmp_path) as api:
            await api.put(slices("10.0.0.1"))
            async with watching(api, tmp_path) as told:
                await last(told, "http://10.0.0.1:8080")
                await until(lambda: api.num_watches == 1)
                await api.put(slices("10.0.0.2"))
                await last(told, "http://10.0.0.2:8080")
                await api.put(slices("10.0.0.3"))
                await last(told, "http://10.0.0.3:8080")
                api.refusal = 503
                api.cut()
                await until(lambda: "answers 503" in caplog.text)
                await api.put(slices("10.0.0.4"))
                api.expire()
                api.refusal = None
                await last(told, "http://10.0.0.4:8080")
            assert api.num_lists >= 2

    asyncio.run(main())


def test_the_api_server_says_in_a_watch_that_a_version_has_expired(tmp_path: Path) -> None:
    async def main() -> None:
        async with kubernetes_api_server(tmp_path) as api:
            await api.put(slices("10.0.0.1"))
            async with watching(api, tmp_path) as told:
                await until(lambda: api.num_watches == 1)
                await api.remove("llm-a")
                await last(told)
                await api.bookmark()
                api._oldest = 10**6  # of which the next word in the open watch is
                await api.bookmark()
                await until(lambda: api.num_lists > 1)
                api._oldest = 0
                await api.put(slices("10.0.0.2"))
                await last(told, "http://10.0.0.2:8080")

    asyncio.run(main())


def test_a_connection_that_is_lost_and_an_api_server_in_trouble_change_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with kubernetes_api_server(tmp_path) as api:
            await api.put(slices("10.0.0.1"))
            async with watching(api, tmp_path) as told:
                await until(lambda: api.num_watches == 1)
                api.refusal = 503
                api.cut()
                await until(lambda: "answers 503; 1 server of before stay" in caplog.text)
                await api.put(slices("10.0.0.2"))
                api.refusal = None
                await last(told, "http://10.0.0.2:8080")
                assert told == [["http://10.0.0.1:8080"], ["http://10.0.0.2:8080"]]

    asyncio.run(main())


@pytest.mark.parametrize("garbage", [b"<html>", b'{"metadata": {"name": "\xff"}}'], ids=["no JSON", "no text"])
def test_what_can_not_be_read_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture, garbage: bytes) -> None:
    async def main() -> None:
        async with kubernetes_api_server(tmp_path) as api:
            api.garbage = garbage
            async with watching(api, tmp_path) as told:
                await until(lambda: "the API server's answer can't be read" in caplog.text)
                api.garbage = None
                await api.put(slices("10.0.0.1"))
                await last(told, "http://10.0.0.1:8080")

    asyncio.run(main())


def test_watches_that_end_at_once_are_not_asked_for_without_a_pause(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kubernetes, "_FIRST_PAUSE_S", 0.1)

    async def main() -> None:
        async with kubernetes_api_server(tmp_path) as api:
            api.is_brief = True
            begun = time.monotonic()
            async with watching(api, tmp_path):
                await until(lambda: api.num_watches == 4)
            assert time.monotonic() - begun >= 0.3
            assert api.num_lists == 1

    asyncio.run(main())


def test_a_token_that_is_renewed_is_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with kubernetes_api_server(tmp_path) as api:
            await api.put(slices("10.0.0.1"))
            (tmp_path / "token").write_text("too-old")
            async with watching(api, tmp_path) as told:
                await until(lambda: "does not take the token" in caplog.text)
                (tmp_path / "token").write_text(api.token)
                await last(told, "http://10.0.0.1:8080")
        assert "too-old" not in caplog.text

    asyncio.run(main())


def test_rights_that_are_missing_are_told_once_with_what_to_do(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with kubernetes_api_server(tmp_path) as api, watching(api, tmp_path, "llm.elsewhere") as told:
            await until(lambda: "give it the Role in docs/router.md" in caplog.text)
            assert told == []

    asyncio.run(main())
    assert caplog.text.count("give it the Role") == 1


def test_an_authority_that_does_not_vouch_for_the_api_server_gets_no_token(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        async with kubernetes_api_server(tmp_path / "a") as api, kubernetes_api_server(tmp_path / "b"):
            async with watching(api, tmp_path / "b"):
                await until(lambda: "CERTIFICATE_VERIFY_FAILED" in caplog.text)
            assert api.num_lists == 0

    asyncio.run(main())


def test_pods_of_several_ports_need_one_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with kubernetes_api_server(tmp_path) as api:
            two = slices("10.0.0.1")
            two["ports"].append({"name": "metrics", "port": 9090, "protocol": "TCP"})
            await api.put(two)
            async with watching(api, tmp_path):
                await until(lambda: "not one port but 8080, 9090: name it, as kubernetes://llm.models:PORT" in caplog.text)
            async with watching(api, tmp_path, port=8080) as told:
                await last(told, "http://10.0.0.1:8080")

    asyncio.run(main())


def test_a_router_serves_with_what_it_finds(tmp_path: Path) -> None:
    async def main() -> None:
        async with kubernetes_api_server(tmp_path) as api, small_server() as a:
            routing = {"servers": ["kubernetes://llm.models"]}
            discovery = {"kubernetes_api": api.url, "kubernetes_account": str(tmp_path)}
            async with routed(routing=routing, discovery=discovery) as running, aiohttp.ClientSession() as client:
                assert (await ask(running, client))[0] == 503, "there is none yet"
                await api.put(slices("127.0.0.1", port=int(a.url.rpartition(":")[2])))
                await until(lambda: running.router.fleet.num_healthy == 1)
                assert (await ask(running, client))[0] == 200

    asyncio.run(main())


@pytest.mark.parametrize("missing", ["token", "ca.crt", "namespace"])
def test_an_account_that_cannot_be_used_ends_the_start(tmp_path: Path, missing: str) -> None:
    async def main() -> None:
        async with kubernetes_api_server(tmp_path) as api:
            (tmp_path / missing).unlink()
            with pytest.raises(ConfigError, match=f"--kubernetes-account .*{missing}.*No such file"):
                KubernetesService(KubernetesApi(api.url, tmp_path), "llm", None)

    asyncio.run(main())


def test_the_rights_in_the_documentation_are_what_is_asked_for() -> None:
    [manifest] = [block for block in re.findall(r"```yaml\n(.*?)```", (DOCS / "router.md").read_text(), re.DOTALL) if "kind: Role" in block]
    by_kind = {one["kind"]: one for one in yaml.safe_load_all(manifest)}
    for one in by_kind.values():
        kubernetes_validate.validate(one, "1.33", strict=True)
    [rule] = by_kind["Role"]["rules"]
    group, version, _, _, resource = LIST_PATH.removeprefix("/apis/").split("/")
    assert (rule["apiGroups"], rule["resources"], sorted(rule["verbs"]), version) == ([group], [resource], ["list", "watch"], "v1")
    account, binding = by_kind["ServiceAccount"]["metadata"], by_kind["RoleBinding"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account["name"], "namespace": account["namespace"]}]
    assert binding["roleRef"]["name"] == by_kind["Role"]["metadata"]["name"]
    pod = by_kind["Deployment"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == account["name"]
