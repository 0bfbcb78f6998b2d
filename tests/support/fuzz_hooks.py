"""What schemathesis does with this server beside its own checks; it loads this module itself (SCHEMATHESIS_HOOKS).

Generated requests are steered: a random name is no model's and most random numbers are no token ids, so that nearly all would end
at the door. Every second one keeps what was generated.
"""

from __future__ import annotations

import json
import os
import random
from typing import Any

import schemathesis
from schemathesis import Case, CheckContext, HookContext, Response

# What tests/e2e/test_fuzz.py serves.
MODEL, ADAPTER = "stub", "tuned"
ADAPTER_PATH = os.environ.get("FUZZ_ADAPTER_PATH", "")
MAX_WORK = 8  # tokens, choices, prompts: a large answer is no hang
NUM_TOKENS = 600

_ROUTES = ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize")


@schemathesis.hook
def before_call(context: HookContext, case: Case, kwargs: dict[str, Any]) -> None:
    """Makes most requests ones that the server takes; the seed is the request itself, so that a failure can be repeated."""
    rng = random.Random(repr((case.path, case.path_parameters, case.body)))
    if isinstance(case.body, dict):
        _limit_work(case.body)
        if rng.random() < 0.8:
            _steer(case.body, rng)
    for name in case.path_parameters or {}:
        if rng.random() < 0.5:
            case.path_parameters[name] = ADAPTER
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


def _limit_work(body: dict[str, Any]) -> None:
    for name in ("n", "best_of", "max_tokens", "max_completion_tokens", "min_tokens"):
        if _is_number(body.get(name)):
            body[name] = min(body[name], MAX_WORK)
    if isinstance(body.get("prompt"), list):
        del body["prompt"][MAX_WORK:]
    if "messages" in body or "prompt" in body:
        body.setdefault("max_tokens", MAX_WORK)


def _steer(body: dict[str, Any], rng: random.Random) -> None:
    for name, value in (("model", rng.choice([MODEL, ADAPTER])), ("src", ADAPTER_PATH), ("lora_path", ADAPTER_PATH)):
        if name in body:
            body[name] = value
    if "lora_name" in body and rng.random() < 0.5:
        body["lora_name"] = ADAPTER
    for name in ("prompt", "tokens", "stop_token_ids"):
        if isinstance(body.get(name), list):
            body[name] = [_as_ids(item) for item in body[name]]
    if isinstance(body.get("logit_bias"), dict):
        body["logit_bias"] = {str(_as_ids(index)): bias for index, bias in enumerate(body["logit_bias"].values())}
    for name in ("logprobs", "top_logprobs", "prompt_logprobs"):
        if _is_number(body.get(name)):
            body[name] = int(body[name]) % 21
    if body.get("stream_options"):
        body["stream"] = True
    if body.get("stream") is True:
        body.pop("prompt_logprobs", None)


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
    assert error["code"] == response.status_code, error
    assert isinstance(error["message"], str), error
    assert error["message"], error
    assert "Traceback" not in error["message"], error
