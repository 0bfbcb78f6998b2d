"""What schemathesis does with this server beside its own checks; it loads this module itself (SCHEMATHESIS_HOOKS).

Generated requests are steered: a random name is no model's and most random numbers are no token ids, so that nearly all would end
at the door. Every second one keeps what was generated.
"""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Callable
from typing import Any

import schemathesis
from schemathesis import Case, CheckContext, HookContext, Response

# What tests/e2e/test_fuzz.py serves.
MODEL, ADAPTER = "stub", "tuned"
ADAPTER_PATH = os.environ.get("FUZZ_ADAPTER_PATH", "")
MAX_WORK = 8  # tokens, choices, prompts: a large answer is no hang
NUM_TOKENS = 260

_UNLIMITED = ("/tokenize", "/v1/messages/count_tokens", "/v1/embeddings", "/pooling", "/classify")
_response_ids: list[str] = []

_ROUTES = ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize")


@schemathesis.hook
def before_call(context: HookContext, case: Case, kwargs: dict[str, Any]) -> None:
    """Makes most requests ones that the server takes; the seed is the request itself, so that a failure can be repeated."""
    rng = random.Random(repr((case.path, case.path_parameters, case.body)))
    if isinstance(case.body, dict):
        _limit_work(case.body, case.path)
        if rng.random() < 0.8:
            _steer(case.body, rng)
            for mend in _MENDS.get(case.path, ()):
                mend(case.body, rng)
    for name in case.path_parameters or {}:
        if rng.random() < (0.1 if case.method.upper() == "DELETE" else 0.7):
            known = _response_ids[-8:] if name == "response_id" else [ADAPTER]
            if known:
                case.path_parameters[name] = rng.choice(known)
    headers = case.headers or {}
    for name, value in (
        ("X-Amzn-SageMaker-Custom-Attributes", f"route={rng.choice(_ROUTES)}"),
        ("X-Amzn-SageMaker-Session-Id", "NEW_SESSION"),
        ("X-Amzn-SageMaker-Adapter-Identifier", ADAPTER),
    ):
        if name in headers and rng.random() < 0.8:
            if rng.random() < 0.5:
                headers[name] = value
            else:
                del headers[name]


@schemathesis.hook
def after_call(context: HookContext, case: Case, response: Response) -> None:
    """Keeps the ids of responses, which the routes beside ask for."""
    if case.path == "/v1/responses" and response.status_code == 200:
        found = re.search(r'"id": ?"(resp_[^"]+)"', response.text)
        if found:
            _response_ids.append(found[1])


def _limit_work(body: dict[str, Any], path: str) -> None:
    for name in ("n", "best_of", "max_tokens", "max_completion_tokens", "max_output_tokens", "min_tokens"):
        if _is_number(body.get(name)):
            body[name] = min(body[name], MAX_WORK)
    for name in ("prompt", "input", "documents", "text_1", "text_2"):
        if isinstance(body.get(name), list):
            del body[name][MAX_WORK:]
    if path == "/v1/responses":
        body.setdefault("max_output_tokens", MAX_WORK)
    elif ("messages" in body or "prompt" in body) and path not in _UNLIMITED:
        body.setdefault("max_tokens", MAX_WORK)


def _steer(body: dict[str, Any], rng: random.Random) -> None:
    for name, value in (
        ("model", ADAPTER if ADAPTER_PATH and rng.random() < 0.2 else MODEL),
        ("src", ADAPTER_PATH),
        ("lora_path", ADAPTER_PATH),
    ):
        if name in body:
            body[name] = value
    if "lora_name" in body and rng.random() < 0.5:
        body["lora_name"] = ADAPTER
    for name in ("prompt", "tokens", "stop_token_ids", "input"):
        if isinstance(body.get(name), list):
            body[name] = [_as_ids(item) for item in body[name]]
    if isinstance(body.get("logit_bias"), dict):
        body["logit_bias"] = {str(_as_ids(index)): bias for index, bias in enumerate(body["logit_bias"].values())}
    for name in ("logprobs", "top_logprobs", "prompt_logprobs"):
        if _is_number(body.get(name)):
            body[name] = int(body[name]) % 21
    if body.get("stream_options"):
        body["stream"] = True
    if body.get("prompt") == []:
        body["prompt"] = "x"
    if body.get("stream") is True:
        body.pop("prompt_logprobs", None)


def _mend_messages(body: dict[str, Any], rng: random.Random) -> None:
    """Half of them keep what was generated, whose blocks and calls seldom go together."""
    if isinstance(body.get("messages"), list) and rng.random() < 0.7:
        for message in body["messages"]:
            if isinstance(message, dict):
                message.pop("tool_calls", None)
                if not isinstance(message.get("content"), str):
                    message["content"] = rng.choice(_TEXTS)
    body.pop("chat_template", None)


def _mend_turns(body: dict[str, Any], rng: random.Random) -> None:
    """Those of Anthropic's: the roles take turns."""
    for at, message in enumerate(body.get("messages") or ()):
        if isinstance(message, dict):
            message["role"] = ("user", "assistant")[at % 2]
    for name in ("container", "mcp_servers", "context_management", "thinking"):
        body.pop(name, None)
    if "output_format" in body or "output_config" in body:
        body.pop("output_config", None)
        body["output_format"] = {"type": "json_schema", "schema": rng.choice(_SCHEMAS)}
    if isinstance(body.get("tools"), list):
        body["tools"] = [{"name": f"f{at}", "input_schema": rng.choice(_SCHEMAS)} for at in range(len(body["tools"][:4]))]
        body.pop("output_format", None)
    if not body.get("tools"):
        body.pop("tool_choice", None)
    elif body.get("tool_choice"):
        body["tool_choice"] = rng.choice(({"type": "auto"}, {"type": "any"}, {"type": "none"}, {"type": "tool", "name": "f0"}))


def _mend_tools(body: dict[str, Any], rng: random.Random) -> None:
    is_flat = "input" in body  # as /v1/responses has them
    if isinstance(body.get("tools"), list):
        functions = [{"name": f"f{at}", "parameters": rng.choice(_SCHEMAS)} for at in range(len(body["tools"][:4]))]
        body["tools"] = [{"type": "function", **(each if is_flat else {"function": each})} for each in functions]
    if not body.get("tools"):
        body.pop("tool_choice", None)
    elif body.get("tool_choice"):
        named = {"type": "function", **({"name": "f0"} if is_flat else {"function": {"name": "f0"}})}
        body["tool_choice"] = rng.choice(("none", "auto", "required", named))
    if body.get("tools"):
        for name in _CONSTRAINTS:
            body.pop(name, None)


def _mend_constraints(body: dict[str, Any], rng: random.Random) -> None:
    """One at most, and one that can be kept: random texts are no grammars."""
    given = [name for name in _CONSTRAINTS if body.pop(name, None) is not None]
    if given:
        body |= rng.choice(_CONSTRAINED)
    body.pop("guided_decoding_backend", None)
    body.pop("guided_whitespace_pattern", None)


def _mend_sampling(body: dict[str, Any], rng: random.Random) -> None:
    for name in ("logits_processors", "vllm_xargs", "min_tokens", "length_penalty", "kv_transfer_params", "timeout"):
        if rng.random() < 0.9:
            body.pop(name, None)
    for name in ("allowed_token_ids", "logprob_token_ids"):
        if isinstance(body.get(name), list):
            body[name] = [_as_ids(item) for item in body[name]] or [5]
    if body.get("repetition_detection"):
        body["repetition_detection"] = {"max_pattern_size": rng.randint(1, 9), "min_count": rng.randint(2, 5)}
    if _is_number(body.get("truncate_prompt_tokens")):
        body["truncate_prompt_tokens"] = rng.choice((-1, 1, 7))
    if _is_number(body.get("best_of")):
        body["best_of"] = max(body["best_of"], body.get("n") or 1)
        if body["best_of"] > (body.get("n") or 1):
            body.pop("stream", None)
            body.pop("stream_options", None)
    if body.get("use_beam_search") is not True:
        body.pop("length_penalty", None)
    else:
        for name in body.keys() - _WITH_BEAMS:
            del body[name]
    if body.get("top_logprobs") and "messages" in body:
        body["logprobs"] = True


def _mend_response(body: dict[str, Any], rng: random.Random) -> None:
    for name in ("previous_response_id", "include", "conversation", "prompt", "use_beam_search"):
        if rng.random() < 0.8:
            body.pop(name, None)
    if rng.random() < 0.3:
        body |= {"background": True, "store": True}
    if body.get("previous_response_id") and _response_ids:
        body["previous_response_id"] = rng.choice(_response_ids[-8:])
    if body.get("top_logprobs"):
        body["include"] = ["message.output_text.logprobs"]
    if body.get("text"):
        body["text"] = {"format": {"type": "json_schema", "name": "n", "schema": rng.choice(_SCHEMAS)}}
        body.pop("tools", None)
    for name in _CONSTRAINTS:
        body.pop(name, None)
    if isinstance(body.get("input"), list) and rng.random() < 0.5:
        body["input"] = [item for item in body["input"] if isinstance(item, dict) and item.get("type") != "item_reference"] or "x"


def _mend_texts(body: dict[str, Any], rng: random.Random) -> None:
    """Of a pooling request: one form of it, and what is told about base64 is about base64."""
    if "input" in body:
        body.pop("messages", None)
    else:
        _mend_messages(body, rng)
    if isinstance(body.get("input"), list):
        body["input"] = [_as_ids(item) for item in body["input"]]
    if "embed_dtype" in body or "endianness" in body:
        body["encoding_format"] = "base64"
    body.pop("dimensions", None)
    if _is_number(body.get("truncate_prompt_tokens")):
        body["truncate_prompt_tokens"] = rng.choice((-1, 1, 7))


def _mend_pairs(body: dict[str, Any], rng: random.Random) -> None:
    pairs = [("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2")]
    for name in {name for pair in pairs for name in pair}:
        body.pop(name, None)
    first, second = rng.choice(pairs)
    body |= {first: rng.choice(_TEXTS), second: [rng.choice(_TEXTS) for _ in range(3)]}
    body.pop("use_activation", None)
    _mend_texts(body, rng)


_TEXTS = ("hello", "x\u2028😀 y", "The capital of France is")
_SCHEMAS: tuple[dict[str, Any], ...] = (
    {"type": "object", "properties": {}, "additionalProperties": False},
    {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
    {"type": "object", "properties": {"é": {"enum": ["x", None]}, "b": {"type": "array", "items": {"type": "string", "maxLength": 3}}}},
)
_CONSTRAINED: tuple[dict[str, Any], ...] = (
    {"response_format": {"type": "json_object"}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": _SCHEMAS[1]}}},
    {"structured_outputs": {"json": _SCHEMAS[2], "disable_any_whitespace": True}},
    {"structured_outputs": {"regex": "[ab]{1,5}"}},
    {"structured_outputs": {"grammar": 'start: "a" | "b" start'}},
    {"guided_choice": ["x", "xy"]},
)
_CONSTRAINTS = ("response_format", "structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar")
_WITH_BEAMS = {"model", "prompt", "messages", "max_tokens", "n", "use_beam_search", "cache_salt", "priority", "logprobs"}
_MENDS: dict[str, tuple[Callable[[dict[str, Any], random.Random], None], ...]] = {
    "/v1/chat/completions": (_mend_messages, _mend_constraints, _mend_tools, _mend_sampling),
    "/v1/completions": (_mend_constraints, _mend_sampling),
    "/v1/responses": (_mend_sampling, _mend_response, _mend_tools),
    "/v1/responses/input_tokens": (_mend_sampling, _mend_response, _mend_tools),
    "/v1/messages": (_mend_messages, _mend_turns),
    "/v1/messages/count_tokens": (_mend_messages, _mend_turns),
    "/tokenize": (_mend_messages, _mend_tools),
    **dict.fromkeys(("/v1/embeddings", "/pooling", "/classify", "/rerank", "/v1/rerank", "/v2/rerank"), (_mend_texts,)),
    **dict.fromkeys(("/score", "/v1/score"), (_mend_pairs,)),
}


def _as_ids(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_ids(item) for item in value]
    return int(value) % NUM_TOKENS if _is_number(value) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@schemathesis.check
def no_server_error(context: CheckContext, response: Response, case: Case) -> None:
    """No 5xx, in the status or in a stream, but those that say when to ask again, that there is no room, or that the time is over which
    the request itself has set."""
    statuses = [response.status_code]
    if "text/event-stream" in str(response.headers.get("content-type")):
        statuses += [error["code"] for error in _errors_in(response.text)]
    is_justified = response.status_code == 507 or (response.status_code == 503 and "retry-after" in response.headers)
    is_probe = case.path in ("/ping", "/health")
    if "timeout" in str(case.body):
        statuses = [status for status in statuses if status != 504] or [0]
    assert max(statuses) < 500 or (is_justified and not is_probe), f"{statuses}: {response.text[:500]}"


def _errors_in(events: str) -> list[dict[str, Any]]:
    found = []
    for line in events.split("\n"):  # not splitlines, which ends a line at U+2028 too
        if line.startswith("data: {"):
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                found.append(event["error"])
    return found


@schemathesis.check
def error_object(context: CheckContext, response: Response, case: Case) -> None:
    """Every failure is {"error": {message, type, param, code}}, and shows nothing of the server's insides."""
    if response.status_code < 400 or case.method.upper() == "HEAD":
        return
    error = json.loads(response.content)["error"]
    assert set(error) == {"message", "type", "param", "code"}, error
    assert error["code"] in (response.status_code, "previous_response_not_found"), error
    assert isinstance(error["message"], str), error
    assert error["message"], error
    assert "Traceback" not in error["message"], error
