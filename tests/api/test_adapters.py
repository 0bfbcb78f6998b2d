"""Adapters over HTTP: registered, used, changed, removed, and what is refused, over an engine that only keeps book of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_server import ApiServer
from websockets.sync.client import connect

from headway.server.stats import AdapterStats
from headway.server.types import EngineStats, GenerateRequest

IDENTIFIER = "X-Amzn-SageMaker-Adapter-Identifier"
ALIAS = "X-Amzn-SageMaker-Adapter-Alias"
CHAT = {"messages": [{"role": "user", "content": "hi"}]}


def directory(root: Path, name: str, refused: str | None = None) -> str:
    path = root / name
    path.mkdir(parents=True)
    (path / "adapter_config.json").write_text("{}")
    if refused:
        (path / "refused").write_text(refused)
    return str(path)


def with_lora(root: Path, **options: Any) -> ApiServer:
    lora = {"enable_lora": True, "max_loras": 2, "lora_allowed_prefixes": [str(root)], **options}
    server = ApiServer(lora=lora)
    server.engine.text = lambda request: said_with(server, request)
    return server


def said_with(server: ApiServer, request: GenerateRequest) -> str:
    return "base" if request.adapter_id is None else server.engine.adapters[request.adapter_id].path.rsplit("/", 1)[1]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ApiServer]:
    with with_lora(tmp_path) as server:
        yield server


def register(server: ApiServer, root: Path, name: str, **fields: Any) -> httpx.Response:
    src = fields.pop("src", None) or directory(root, name)
    return server.post("/adapters", {"name": name, "src": src, **fields})


def said(server: ApiServer, path: str = "/v1/chat/completions", model: str | None = None, **headers: str) -> str:
    body = CHAT if model is None else {**CHAT, "model": model}
    answer = server.post(path, body, headers={name.replace("_", "-"): value for name, value in headers.items()})
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


def test_an_adapter_from_its_registration_to_its_end(server: ApiServer, tmp_path: Path) -> None:
    src = directory(tmp_path, "a1")
    answer = server.post("/adapters", {"name": "a1", "src": src, "preload": True, "pin": False})
    assert (answer.status_code, answer.json()) == (200, {"status": "Adapter a1 registered"})
    assert server.client.get("/adapters").json() == {"adapters": [{"name": "a1", "src": src, "pin": False, "loaded": True}]}
    assert server.client.get("/adapters/a1").json() == [{"name": "a1", "src": src, "pin": False, "loaded": True}]
    assert said(server) == "base"
    assert said(server, model="a1") == "a1"
    assert said(server, "/invocations", **{IDENTIFIER: "a1"}) == "a1"
    answer = server.client.delete("/adapters/a1")
    assert (answer.status_code, answer.json()) == (200, {"status": "Adapter a1 unregistered"})
    assert server.engine.adapter_log == ["+a1", "-a1"]
    assert server.client.get("/adapters").json() == {"adapters": []}
    assert server.post("/v1/chat/completions", {**CHAT, "model": "a1"}).status_code == 404
    assert server.client.delete("/adapters/a1").status_code == 404


def test_the_header_goes_before_the_bodys_model_and_changes_nothing_when_absent(server: ApiServer, tmp_path: Path) -> None:
    register(server, tmp_path, "a")
    register(server, tmp_path, "b")
    for path in ("/invocations", "/v1/chat/completions"):
        assert said(server, path, model="a", **{IDENTIFIER: "b"}) == "b"
        assert said(server, path, model="whatever", **{IDENTIFIER: "b"}) == "b"
        assert said(server, path, model="a") == "a"
        assert said(server, path, model="tiny") == "base"
        assert said(server, path, model="") == "base"
        assert said(server, path, **{IDENTIFIER: ""}) == "base"
    answer = server.post("/v1/completions", {"prompt": "x"}, headers={IDENTIFIER: "b"}).json()
    assert (answer["choices"][0]["text"], answer["model"]) == ("b", "b")
    chunks = server.openai().chat.completions.create(model="a", messages=CHAT["messages"], stream=True)  # type: ignore[call-overload]
    assert {chunk.model for chunk in chunks} == {"a"}


def test_lines_of_a_batch_and_messages_of_a_websocket_have_the_headers_adapter(server: ApiServer, tmp_path: Path) -> None:
    register(server, tmp_path, "a")
    line = b'{"prompt": "x"}\n{"prompt": "y", "model": "tiny"}\n'
    answers = server.client.post("/invocations", content=line, headers={IDENTIFIER: "a", "Content-Type": "application/jsonlines"}).text
    assert [json.loads(answer)["choices"][0]["text"] for answer in answers.splitlines()] == ["a", "a"]
    url = server.url.replace("http", "ws") + "/invocations-bidirectional-stream"
    with connect(url, additional_headers={IDENTIFIER: "a"}) as socket:
        socket.send(json.dumps(CHAT))
        assert json.loads(socket.recv(timeout=60))["choices"][0]["message"]["content"] == "a"


def test_an_unknown_adapter_is_answered_with_the_names(server: ApiServer, tmp_path: Path) -> None:
    answer = server.post("/invocations", CHAT, headers={IDENTIFIER: "x"})
    assert answer.status_code == 404
    assert answer.json()["error"]["message"] == "The adapter 'x' is not registered here; none is."
    register(server, tmp_path, "a")
    register(server, tmp_path, "b")
    error = server.post("/invocations", CHAT, headers={IDENTIFIER: "x"}).json()["error"]
    assert error["message"] == "The adapter 'x' is not registered here; these are: 'a', 'b'."
    error = server.post("/invocations", {**CHAT, "model": "x"}).json()["error"]
    assert error["message"] == "The model 'x' does not exist here; this server has 'tiny' and the adapters 'a', 'b'."
    for method, path in (("GET", "/adapters/x"), ("DELETE", "/adapters/x"), ("POST", "/adapters/x/update?pin=true")):
        assert server.client.request(method, path).status_code == 404


def test_the_alias_is_what_the_caller_reads(server: ApiServer, tmp_path: Path) -> None:
    src = directory(tmp_path, "a")
    answer = server.post("/adapters", {"name": "f3a9", "src": src}, headers={ALIAS: "my-adapter"})
    assert answer.json() == {"status": "Adapter my-adapter registered"}
    assert server.client.delete("/adapters/f3a9", headers={ALIAS: "my-adapter"}).json() == {"status": "Adapter my-adapter unregistered"}


def test_models_lists_adapters_below_the_model(server: ApiServer, tmp_path: Path) -> None:
    register(server, tmp_path, "a")
    base, card = server.openai().models.list().data
    assert (base.id, card.id, card.parent, card.root) == ("tiny", "a", "tiny", str(tmp_path / "a"))  # type: ignore[attr-defined]
    assert server.openai().models.retrieve("a").id == "a"
    assert server.post("/tokenize", {"model": "a", "prompt": "x"}).status_code == 200


def test_pages(server: ApiServer, tmp_path: Path) -> None:
    names = [f"a{i}" for i in range(5)]
    for name in names:
        assert register(server, tmp_path, name, preload=False).status_code == 200
    seen: list[str] = []
    token: str | None = "0"
    while token is not None:
        page = server.client.get("/adapters", params={"limit": 2, "next_page_token": token}).json()
        seen += [adapter["name"] for adapter in page["adapters"]]
        token = page.get("nextPageToken")
    assert seen == names
    for query in ("limit=0", "limit=1001", "limit=x", "next_page_token=-1", "limit=٣"):
        assert server.client.get(f"/adapters?{query}").status_code == 400


def test_lmis_form_in_the_query(server: ApiServer, tmp_path: Path) -> None:
    src = directory(tmp_path, "a1")
    assert server.client.post("/adapters", params={"name": "a1", "src": src, "preload": "false"}).json() == {
        "status": "Adapter a1 registered"
    }
    assert server.engine.adapter_log == ["+a1"]
    assert server.client.post("/adapters/a1/update?pin=true").json() == {"status": "Adapter a1 updated"}
    assert server.client.get("/adapters/a1").json() == [{"name": "a1", "src": src, "pin": True, "loaded": True}]


def test_without_preload_the_first_request_loads(server: ApiServer, tmp_path: Path) -> None:
    register(server, tmp_path, "a", preload=False)
    assert server.client.get("/adapters/a").json()[0]["loaded"] is False
    assert said(server, model="a") == "a"
    assert server.client.get("/adapters/a").json()[0]["loaded"] is True


def test_when_every_place_is_pinned_no_other_adapter_is_taken(server: ApiServer, tmp_path: Path) -> None:
    register(server, tmp_path, "a", pin=True)
    register(server, tmp_path, "b", preload=False)
    register(server, tmp_path, "c", preload=False)
    assert said(server, model="c") == "c"
    assert server.post("/adapters/b/update", {"pin": True}).status_code == 200
    assert server.engine.adapter_log == ["+a pinned", "+b", "+c", "pin b"]
    for fields in ({}, {"pin": True}):
        answer = register(server, tmp_path, "d", src=str(tmp_path / "a"), **fields)
        assert answer.status_code == 507
        assert "are pinned" in answer.json()["error"]["message"]
    assert register(server, tmp_path, "e", preload=False).status_code == 200, "its name alone takes no place"
    assert server.post("/v1/chat/completions", {**CHAT, "model": "c"}).status_code == 507
    assert said(server, model="b") == "b"
    assert server.post("/adapters/a/update", {"src": str(tmp_path / "e")}).status_code == 200, "a pinned one makes room for its successor"
    assert server.post("/adapters/a/update", {"pin": False}).status_code == 200
    assert said(server, model="c") == "c"


def open_stream(server: ApiServer, model: str) -> httpx.Response:
    request = server.client.build_request("POST", "/v1/chat/completions", json={**CHAT, "model": model, "stream": True})
    response = server.client.send(request, stream=True)
    assert response.status_code == 200
    return response


def test_a_deleted_adapter_serves_its_open_requests_to_their_end(server: ApiServer, tmp_path: Path) -> None:
    register(server, tmp_path, "a")
    server.on_loop(server.engine.gate.clear)
    server.wait_for(lambda: not server.engine.gate.is_set())
    stream = open_stream(server, "a")
    assert server.client.delete("/adapters/a").status_code == 200
    assert server.post("/v1/chat/completions", {**CHAT, "model": "a"}).status_code == 404
    assert register(server, tmp_path, "a", src=directory(tmp_path, "b")).status_code == 200, "its name is free at once"
    assert server.engine.adapter_log == ["+a", "+a"]
    server.on_loop(server.engine.gate.set)
    assert stream.read().endswith(b"data: [DONE]\n\n")
    server.wait_for(lambda: server.engine.adapter_log == ["+a", "+a", "-a"])
    assert said(server, model="a") == "b"


def test_an_update_with_a_source_loads_anew_under_a_new_id(server: ApiServer, tmp_path: Path) -> None:
    register(server, tmp_path, "a", pin=True)
    said(server, model="a")
    other = directory(tmp_path, "other")
    assert server.post("/adapters/a/update", {"src": other}).json() == {"status": "Adapter a updated"}
    assert said(server, model="a") == "other"
    first, second = (request.adapter_id for request in server.engine.requests)
    assert first != second, "cached prefixes must not be found again"
    assert server.client.get("/adapters/a").json() == [{"name": "a", "src": other, "pin": True, "loaded": True}]
    broken = directory(tmp_path, "broken", refused="The adapter can't be loaded: it is odd.")
    answer = server.post("/adapters/a/update", {"src": broken})
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "The adapter can't be loaded: it is odd.")
    assert said(server, model="a") == "other", "what was served goes on"
    # With one place the new one waits for the old one's: the pin of that would keep it for ever, and every later change behind it.
    log = server.engine.adapter_log
    assert log[:3] == ["+a pinned", "unpin a", "+a pinned"]
    assert log[-2:] == ["unpin a", "pin a"], "it is pinned again"
    assert server.post("/adapters/a/update", {}).status_code == 400


def test_what_the_engine_refuses_is_not_registered(server: ApiServer, tmp_path: Path) -> None:
    src = directory(tmp_path, "a", refused="The adapter can't be loaded: its rank is 99.")
    answer = server.post("/adapters", {"name": "a", "src": src})
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "The adapter can't be loaded: its rank is 99.")
    assert server.client.get("/adapters").json() == {"adapters": []}


def test_one_name_once(server: ApiServer, tmp_path: Path) -> None:
    register(server, tmp_path, "a")
    answer = register(server, tmp_path, "a", src=str(tmp_path / "a"))
    assert (answer.status_code, answer.json()["error"]["type"]) == (409, "ConflictError")
    assert server.engine.adapter_log == ["+a"]


@pytest.mark.parametrize("name", ["", "tiny", "a/b", "../a", ".a", "a b", "a\nb", "é", "a" * 257, "a\u202e", 7, None])
def test_names_that_are_refused(server: ApiServer, tmp_path: Path, name: Any) -> None:
    answer = server.post("/adapters", {"name": name, "src": directory(tmp_path, "a")})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "name")


def test_sources_that_are_refused(server: ApiServer, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = directory(tmp_path_factory.mktemp("elsewhere"), "a")
    (tmp_path / "link").symlink_to(outside)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "adapter_config.json").symlink_to(f"{outside}/adapter_config.json")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "adapter_config.json").write_text("{}")
    (tmp_path / "weights" / "adapter_model.safetensors").symlink_to("/etc/passwd")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "adapter_config.json")
    inside = directory(tmp_path, "good")
    refused = {
        outside: "is elsewhere",
        "/": "is elsewhere",
        str(tmp_path) + "x/a": "is elsewhere",
        f"{tmp_path}/link": "is elsewhere",
        f"{tmp_path}/files": "is elsewhere",
        f"{tmp_path}/weights": "is elsewhere",
        f"{tmp_path}/../{tmp_path.name}/good": "must not have ..",
        f"file://{tmp_path}/%2e%2e/x": "must not have ..",
        "good": "absolute path",
        "": "",
        f"file://host{inside}": "absolute path",
        f"s3:/{inside}": "absolute path",
        f"{inside}\0": "absolute path",
        "file://[::1": "absolute path",
    }
    for src, word in refused.items():
        answer = server.post("/adapters", {"name": "a", "src": src})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "src"), src
        assert word in answer.json()["error"]["message"]
    for missing in ("none", "circle", "pipe", "good/adapter_config.json"):
        assert server.post("/adapters", {"name": "a", "src": f"{tmp_path}/{missing}"}).status_code == 404
    # What is elsewhere is not told apart from what is nowhere.
    answers = {server.post("/adapters", {"name": "a", "src": src}).text.replace(src, "") for src in ("/etc/passwd", "/etc/nothing")}
    assert len(answers) == 1
    assert server.engine.adapter_log == []


def test_sources_that_are_taken(server: ApiServer, tmp_path: Path) -> None:
    inside = directory(tmp_path / "nested" / "deep", "weights of mine")
    (tmp_path / "link").symlink_to(inside)
    for i, src in enumerate((inside, f"file://{inside.replace(' ', '%20')}", str(tmp_path / "link"), str(tmp_path / "nested" / "deep"))):
        assert register(server, tmp_path, f"a{i}", src=src).status_code == 200
    assert {adapter.ref.path for adapter in server.adapters.all()} == {inside}


def test_routes_say_how_to_switch_adapters_on() -> None:
    with ApiServer() as server:
        calls = [
            ("POST", "/adapters"),
            ("GET", "/adapters"),
            ("GET", "/adapters/a"),
            ("POST", "/adapters/a/update"),
            ("DELETE", "/adapters/a"),
            ("POST", "/v1/load_lora_adapter"),
            ("POST", "/v1/unload_lora_adapter"),
        ]
        for method, path in calls:
            answer = server.client.request(method, path)
            assert (answer.status_code, "--enable-lora" in answer.text) == (400, True), path
        answer = server.post("/invocations", CHAT, headers={IDENTIFIER: "a"})
        assert (answer.status_code, "--enable-lora" in answer.text) == (400, True)


def test_the_api_key_guards_every_route(tmp_path: Path) -> None:
    lora = {"enable_lora": True, "allow_runtime_lora_updating": True}
    with ApiServer(lora=lora, security={"api_key": ["k"]}) as server:
        for method, path in (("POST", "/adapters"), ("GET", "/adapters"), ("DELETE", "/adapters/a"), ("POST", "/v1/load_lora_adapter")):
            assert server.client.request(method, path).status_code == 401


def test_vllms_routes(tmp_path: Path) -> None:
    with with_lora(tmp_path) as server:
        assert "--allow-runtime-lora-updating" in server.post("/v1/load_lora_adapter", {}).json()["error"]["message"]
    with with_lora(tmp_path, allow_runtime_lora_updating=True) as server:
        body = {"lora_name": "a", "lora_path": directory(tmp_path, "a")}
        assert server.post("/v1/load_lora_adapter", body).text == "Success: LoRA adapter 'a' added successfully."
        assert said(server, model="a") == "a"
        assert server.post("/v1/load_lora_adapter", body).status_code == 409
        other = {**body, "lora_path": directory(tmp_path, "b"), "load_inplace": True}
        assert server.post("/v1/load_lora_adapter", other).status_code == 200
        assert said(server, model="a") == "b"
        outside = server.post("/v1/load_lora_adapter", {"lora_name": "e", "lora_path": "/etc"}).json()["error"]
        assert outside["param"] == "lora_path"
        assert server.post("/v1/unload_lora_adapter", {"lora_name": "a"}).text == "Success: LoRA adapter 'a' removed successfully."
        assert server.post("/v1/unload_lora_adapter", {"lora_name": "a"}).status_code == 404


def test_a_name_registered_and_deleted_by_many_at_once(server: ApiServer, tmp_path: Path) -> None:
    """Whatever the order, each answer is one of those that some order gives, and slots and names agree in the end."""
    src = directory(tmp_path, "a")

    def churn(index: int) -> list[int]:
        statuses = []
        with httpx.Client(base_url=server.url, timeout=60) as client:
            for _ in range(10):
                if index % 2:
                    statuses.append(client.post("/adapters", json={"name": "a", "src": src}).status_code)
                else:
                    statuses.append(client.delete("/adapters/a").status_code)
                statuses.append(client.post("/v1/chat/completions", json={**CHAT, "model": "a"}).status_code)
        return statuses

    with ThreadPoolExecutor(6) as pool:
        statuses = {status for result in pool.map(churn, range(6)) for status in result}
    assert statuses <= {200, 404, 409}
    server.client.delete("/adapters/a")
    server.wait_for(lambda: not server.engine.open_ids)
    server.wait_for(lambda: not server.engine.adapters)
    assert server.adapters.running() == set()


def test_a_client_that_leaves_while_its_adapter_loads_breaks_nothing(server: ApiServer, tmp_path: Path) -> None:
    server.on_loop(server.engine.adapter_gate.clear)
    server.wait_for(lambda: not server.engine.adapter_gate.is_set())
    server.leave("/adapters", {"name": "a", "src": directory(tmp_path, "a")}, lambda: server.engine.num_loads_begun == 1)
    server.on_loop(server.engine.adapter_gate.set)
    server.wait_for(lambda: server.adapters.find("a") is not None)
    assert said(server, model="a") == "a"


def test_a_dead_engine_is_told_of(server: ApiServer, tmp_path: Path) -> None:
    server.on_loop(lambda: server.engine.die("it burned"))
    server.wait_for(lambda: server.engine.dead_cause is not None)
    answer = register(server, tmp_path, "a")
    assert (answer.status_code, "it burned" in answer.text) == (503, True)


def test_the_metric_of_adapters(server: ApiServer, tmp_path: Path) -> None:
    register(server, tmp_path, "a")
    server.on_loop(server.engine.gate.clear)
    server.wait_for(lambda: not server.engine.gate.is_set())
    stream = open_stream(server, "a")
    text = server.client.get("/metrics").text
    assert 'vllm:lora_requests_info{max_lora="2",running_lora_adapters="a",waiting_lora_adapters=""}' in text
    server.on_loop(server.engine.gate.set)
    stream.read()
    server.wait_for(lambda: not server.engine.open_ids)
    assert 'running_lora_adapters=""' in server.client.get("/metrics").text


def test_the_metric_names_an_adapter_that_requests_wait_for(server: ApiServer, tmp_path: Path) -> None:
    for name in "ab":
        register(server, tmp_path, name, preload=False)
    first, second = (adapter.ref.id for adapter in server.adapters.all())
    server.engine.stats = EngineStats(adapters=AdapterStats(running=(second,), waiting=(first, second)))
    assert 'running_lora_adapters="b",waiting_lora_adapters="a,b"' in server.client.get("/metrics").text
