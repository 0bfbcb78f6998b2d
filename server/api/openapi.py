"""The OpenAPI document behind /docs, made from the table of routes: what it says of bodies and answers is what tests hold against them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from headway import __version__
from headway.server.api.auth import is_open
from headway.server.api.media import JSON
from headway.server.api.paths import is_of_messages
from headway.server.api.protocol.answers import ErrorAnswer, HealthAnswer
from headway.server.api.protocol.base import RequestModel
from headway.server.api.routes.docs import Docs, Parameter
from headway.server.api.routes.table import Route
from headway.server.api.stream import EVENTS

Node = dict[str, Any]

_ABOUT = "OpenAI's and Anthropic's routes, as vLLM serves them, and SageMaker's."
_TAGS = {
    "Generate": "Chats and completions, whole or streamed.",
    "SageMaker": "The contract of the platform's containers.",
    "Tokens": "Between text and token ids.",
    "Models": "The served names.",
    "Adapters": "LoRA adapters, loaded and removed at run time.",
    "Server": "Health, load, metrics.",
    "Operation": "Sleep, wake, and what developers need; each behind a switch.",
}
_ERRORS = {
    400: "The request can't be served as it stands.",
    401: "No valid API key was sent.",
    404: "There is no such model, adapter or route.",
    406: "The Accept header leaves no form that the answer could have.",
    409: "An adapter of that name is registered, or the engine is in another state.",
    413: "The body is above --max-request-body-bytes.",
    415: "The body's Content-Type is none that this route reads.",
    424: "A stateful session could not be opened or closed.",
    503: "The server starts, drains or has a full queue; ask again after Retry-After.",
    504: "The request's time limit is over.",
    507: "Every slot for adapters is pinned.",
}
_CHUNK = b'{"id": "cmpl-1", "choices": [{"index": 0, "text": " Paris", "finish_reason": null}]}'
_EVENTS = (EVENTS.frame([_CHUNK]) + EVENTS.end).decode()
_BEARER, _KEY_HEADER = "bearer", "x-api-key"
_PATH_TYPE = re.compile(r":\w+\}")


def document(routes: tuple[Route, ...], has_key: bool, open_prefixes: Sequence[str] = ()) -> Node:
    """The whole document. ``has_key``: clients must send one, but below ``open_prefixes``."""
    paths: dict[str, Node] = {}
    for route in routes:
        operations = paths.setdefault(_PATH_TYPE.sub("}", route.path), {})
        for method in route.methods.lower().split():
            operations[method] = _operation(route, method, has_key and not is_open(route.path, open_prefixes))
    components: Node = {"schemas": _schemas(routes), "responses": _error_responses(routes)}
    if has_key:
        one_of = "One of the server's --api-key."
        components["securitySchemes"] = {
            _BEARER: {"type": "http", "scheme": "bearer", "description": one_of},
            _KEY_HEADER: {"type": "apiKey", "in": "header", "name": _KEY_HEADER, "description": one_of},
        }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Headway", "version": __version__, "description": _ABOUT},
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "paths": paths,
        "components": components,
    }


def _operation(route: Route, method: str, needs_key: bool) -> Node:
    docs = route.docs
    operation: Node = {
        "tags": [docs.tag],
        "summary": route.summary,
        "operationId": re.sub(r"\W+", "_", f"{method}{route.path}").rstrip("_") + ("_slash" if route.path.endswith("/") else ""),
    }
    if docs.parameters:
        operation["parameters"] = [_parameter(parameter) for parameter in docs.parameters]
    if docs.bodies:
        operation["requestBody"] = {"required": True, "content": _content(docs.bodies, docs.body_types)}
    operation["responses"] = {"200": _answer(docs, method)}
    if docs.answer is HealthAnswer:
        operation["responses"]["503"] = {**_answer(docs, method), "description": "No requests are served; the reason says why."}
    for status in sorted({*docs.errors, *([401] if needs_key else [])}):
        operation["responses"][str(status)] = {"$ref": f"#/components/responses/{_error_name(docs.error, status)}"}
    if needs_key:
        operation["security"] = [{_BEARER: []}, {_KEY_HEADER: []}] if is_of_messages(route.path) else [{_BEARER: []}]
    return operation


def _parameter(parameter: Parameter) -> Node:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.place == "path",
        "description": parameter.description,
        "schema": parameter.schema,
    }


def _answer(docs: Docs, method: str) -> Node:
    if method == "head":
        return {"description": "No body."}
    return {"description": "The answer.", "content": _content((docs.answer,) if docs.answer else (), docs.answer_types)}


def _content(models: Sequence[type[BaseModel]], text_types: Sequence[str]) -> Node:
    """One of ``models`` in JSON, a text in each of ``text_types``. A schema of events would be that of one event."""
    content: Node = {}
    if models:
        schemas = [{"$ref": f"#/components/schemas/{model.__name__}"} for model in models]
        content[JSON] = {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}}
    for media_type in text_types:
        content[media_type] = {"example": _EVENTS} if media_type == EVENTS.media_type else {"schema": {"type": "string"}}
    return content


def _error_name(error: type[BaseModel], status: int) -> str:
    return str(status) if error is ErrorAnswer else f"{error.__name__}{status}"


def _error_responses(routes: Sequence[Route]) -> Node:
    forms: dict[type[BaseModel], None] = dict.fromkeys([ErrorAnswer, *(route.docs.error for route in routes)])
    return {_error_name(error, status): _error_response(error, status) for error in forms for status in _ERRORS}


def _error_response(error: type[BaseModel], status: int) -> Node:
    response: Node = {"description": _ERRORS[status], "content": _content((error,), ())}
    if status == 503:
        response["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
    return response


def _schemas(routes: Sequence[Route]) -> Node:
    """Of every body and answer, and of what they hold."""
    models: list[type[BaseModel]] = [ErrorAnswer]
    for route in routes:
        models += [*route.docs.bodies, route.docs.error, *([route.docs.answer] if route.docs.answer else [])]
    unique = list(dict.fromkeys(models))
    _, schema = models_json_schema([(model, "validation") for model in unique], ref_template="#/components/schemas/{model}")
    schemas: Node = schema["$defs"]
    for model in unique:
        if issubclass(model, RequestModel):
            # They take fields of any name to say what is wrong with them (protocol.parse).
            schemas[model.__name__]["additionalProperties"] = False
    return schemas
