"""Responses in the background, and who may see what is kept."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from api_server import ApiServer

from headway.server.config.responses import stores_responses
from headway.server.config.server import ServerConfig, problems, warnings


@pytest.fixture
def client(server: ApiServer) -> Iterator[openai.OpenAI]:
    with server.openai() as made:
        yield made


def ended(server: ApiServer, client: openai.OpenAI, response_id: str) -> Any:
    server.wait_for(lambda: client.responses.retrieve(response_id).status not in ("queued", "in_progress"))
    return client.responses.retrieve(response_id)


def test_it_is_answered_at_once_and_asked_for_later(server: ApiServer, client: openai.OpenAI) -> None:
    server.engine.gate.clear()
    begun = client.responses.create(model="tiny", input="hi", background=True)
    assert (begun.status, begun.background, begun.output) == ("queued", True, [])
    assert server.drain.num_held == 1
    with pytest.raises(openai.BadRequestError) as early:
        client.responses.create(model="tiny", input="x", previous_response_id=begun.id)
    assert early.value.param == "previous_response_id"
    server.on_loop(server.engine.gate.set)
    done = ended(server, client, begun.id)
    assert (done.status, done.output_text) == ("completed", "hello world")
    assert server.drain.num_held == 0
    with pytest.raises(openai.BadRequestError):
        client.responses.retrieve(begun.id, stream=True)


def test_a_client_that_leaves_does_not_end_it_and_comes_back_for_the_rest(server: ApiServer, client: openai.OpenAI) -> None:
    server.engine.is_endless = True
    stream = client.responses.create(model="tiny", input="hi", background=True, stream=True, max_output_tokens=100)
    first = list(itertools.islice(stream, 6))
    assert [event.type for event in first[:3]] == ["response.created", "response.queued", "response.in_progress"]
    stream.close()
    response_id = first[0].response.id  # type: ignore[union-attr]
    rest = list(client.responses.retrieve(response_id, stream=True, starting_after=first[-1].sequence_number))
    assert [event.sequence_number for event in (*first, *rest)] == list(range(len(first) + len(rest)))
    assert rest[-1].type == "response.incomplete"
    assert not server.engine.aborted_ids
    assert list(client.responses.retrieve(response_id, stream=True)) == [*first, *rest]  # kept, too
    text = "".join(event.delta for event in (*first, *rest) if event.type == "response.output_text.delta")
    assert client.responses.retrieve(response_id).output_text == text == rest[-1].response.output_text


def test_the_stream_helper_reads_it(server: ApiServer, client: openai.OpenAI) -> None:
    with client.responses.stream(model="tiny", input="hi", background=True) as stream:
        response_id = next(iter(stream)).response.id  # type: ignore[union-attr]
        assert stream.get_final_response().output_text == "hello world"
    with client.responses.stream(response_id=response_id, starting_after=3) as again:
        assert again.get_final_response().output_text == "hello world"


def test_cancelling_ends_the_work_in_the_engine(server: ApiServer, client: openai.OpenAI) -> None:
    server.engine.is_endless = True
    stream = client.responses.create(model="tiny", input="hi", background=True, stream=True)
    response_id = next(stream).response.id  # type: ignore[union-attr]
    next(event for event in stream if event.type == "response.output_text.delta")
    cancelled = client.responses.cancel(response_id)
    assert cancelled.status == "cancelled"
    assert cancelled.output_text
    last = list(stream)[-1]
    assert last.type == "response.incomplete"
    assert last.response.status == "cancelled"
    assert not server.engine.open_ids
    assert len(server.engine.aborted_ids) == 1
    assert client.responses.cancel(response_id) == client.responses.retrieve(response_id)  # once more changes nothing
    whole = client.responses.create(model="tiny", input="hi", max_output_tokens=2)
    with pytest.raises(openai.BadRequestError):
        client.responses.cancel(whole.id)


def test_deleting_ends_it_too(server: ApiServer, client: openai.OpenAI) -> None:
    server.engine.gate.clear()
    begun = client.responses.create(model="tiny", input="hi", background=True)
    client.responses.delete(begun.id)
    assert not server.engine.open_ids
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(begun.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.delete(begun.id)


def test_it_ends_with_its_time_limit_and_with_the_engine(server: ApiServer, client: openai.OpenAI) -> None:
    server.engine.gate.clear()
    begun = client.responses.create(model="tiny", input="hi", background=True, extra_headers={"X-Request-Timeout": "0.05"})
    failed = ended(server, client, begun.id)
    assert failed.status == "failed"
    assert "0.05 s" in failed.error.message
    begun = client.responses.create(model="tiny", input="hi", background=True)
    server.on_loop(lambda: server.engine.die("the device is gone"))
    assert "the device is gone" in ended(server, client, begun.id).error.message
    assert server.drain.num_held == 0


def test_only_so_many_run_at_a_time() -> None:
    with ApiServer(responses={"max_background_responses": 1}) as server:
        server.engine.gate.clear()
        body = {"input": "hi", "background": True}
        assert server.post("/v1/responses", body).status_code == 200
        refused = server.post("/v1/responses", body)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert 'reason="max_background_responses"} 1.0' in server.client.get("/metrics").text


def asked(server: ApiServer, key: str, method: str, path: str, body: Any = None) -> httpx.Response:
    return server.client.request(method, path, json=body, headers={"authorization": f"Bearer {key}"})


def test_a_response_belongs_to_the_key_that_made_it() -> None:
    with ApiServer(security={"api_key": ["one", "two"]}) as server:
        made = asked(server, "one", "POST", "/v1/responses", {"input": "secret"}).json()
        path = f"/v1/responses/{made['id']}"
        for method, at in (("GET", path), ("GET", f"{path}/input_items"), ("POST", f"{path}/cancel"), ("DELETE", path)):
            assert asked(server, "two", method, at).status_code == 404
        for body in (
            {"input": "x", "previous_response_id": made["id"]},
            {"input": [{"type": "item_reference", "id": made["output"][0]["id"]}]},
        ):
            assert asked(server, "two", "POST", "/v1/responses", body).status_code == 404
            assert asked(server, "one", "POST", "/v1/responses", body).status_code == 200
        assert asked(server, "one", "GET", path).json() == made
        assert asked(server, "one", "DELETE", path).json() == {"id": made["id"], "object": "response", "deleted": True}


def test_nothing_is_kept_where_it_is_not_wanted(server: ApiServer, client: openai.OpenAI) -> None:
    answer = client.responses.create(model="tiny", input="hi", store=False)
    assert answer.to_dict()["store"] is False
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(answer.id)


def test_a_server_without_a_store_says_so() -> None:
    with ApiServer(responses={"enable_responses_store": False}) as server:
        answer = server.post("/v1/responses", {"input": "hi"})
        assert answer.json()["store"] is False
        assert "--enable-responses-store" in server.client.get(f"/v1/responses/{answer.json()['id']}").json()["error"]["message"]
        for field in ({"store": True}, {"background": True}, {"previous_response_id": "resp_x"}):
            refused = server.post("/v1/responses", {"input": "hi", **field})
            assert refused.status_code == 400
            assert refused.json()["error"]["param"] == next(iter(field))


def test_several_api_processes_keep_nothing() -> None:
    config = ServerConfig.model_validate({"model": {"model": "m"}, "network": {"api_server_count": 2}})
    assert not problems(config)
    assert not stores_responses(config.responses, config.network.api_server_count)
    asked_for = ServerConfig.model_validate({**config.model_dump(exclude_unset=True), "responses": {"enable_responses_store": True}})
    assert not problems(asked_for)
    assert any("--enable-responses-store has no effect with --api-server-count 2" in warning for warning in warnings(asked_for))


@pytest.mark.parametrize(
    ("query", "param"), [({"starting_after": 1}, "starting_after"), ({"streem": "true"}, "streem"), ({"stream": "x"}, "stream")]
)
def test_queries_are_judged(server: ApiServer, query: dict[str, Any], param: str) -> None:
    made = server.post("/v1/responses", {"input": "hi"}).json()
    refused = server.client.get(f"/v1/responses/{made['id']}", params=query)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
    assert server.client.get(f"/v1/responses/{made['id']}/input_items", params={"after": "nothing"}).status_code == 400


def test_a_conversation_is_no_larger_than_a_body_may_be() -> None:
    with ApiServer(max_model_len=2048, overload={"max_request_body_bytes": 2500}) as server:
        first = server.post("/v1/responses", {"input": "x" * 900}).json()
        refused = server.post("/v1/responses", {"input": "x" * 900, "previous_response_id": first["id"]})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "previous_response_id")
        assert "--max-request-body-bytes" in refused.json()["error"]["message"]
