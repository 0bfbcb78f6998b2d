"""SageMaker's headers beside a request: Custom-Attributes, free text that goes back as it came, in which ``route=/path`` selects what
is asked for, the name of an adapter, and ids."""

from __future__ import annotations

import re

from starlette.datastructures import Headers

from headway.server.api.sagemaker.sessions import NEW_SESSION, SESSION_ID, short_id
from headway.server.errors import RequestError

CUSTOM_ATTRIBUTES = "x-amzn-sagemaker-custom-attributes"
ADAPTER_IDENTIFIER = "x-amzn-sagemaker-adapter-identifier"
_MAX_LENGTH = 1024  # SageMaker takes no more
_VISIBLE_ASCII = re.compile(r"[\x20-\x7e]+")
_SEPARATORS = re.compile("[,;]")
_IDS = {
    "inference_id": "x-amzn-sagemaker-inference-id",
    "prefix_id": "x-amzn-sagemaker-prefix-aware-id",
    "adapter": ADAPTER_IDENTIFIER,
}
_MAX_ID_LENGTH = 128  # in the log; SageMaker's own have at most 64 characters


def echoed(headers: Headers) -> dict[str, str]:
    """What SageMaker's caller expects to get back as it was."""
    attributes = headers.get(CUSTOM_ATTRIBUTES, "")
    return {CUSTOM_ATTRIBUTES: attributes} if len(attributes) <= _MAX_LENGTH and _VISIBLE_ASCII.fullmatch(attributes) else {}


def asked_adapter(headers: Headers) -> str | None:
    """The adapter whose inference component was called; None for the model's own."""
    return headers.get(ADAPTER_IDENTIFIER) or None


def asked_route(headers: Headers) -> str | None:
    """The value of the attribute ``route`` among ``key=value`` pairs; None without one. Raises RequestError for several."""
    attributes = headers.get(CUSTOM_ATTRIBUTES, "")
    if len(attributes) > _MAX_LENGTH:
        raise RequestError(f"X-Amzn-SageMaker-Custom-Attributes has {len(attributes)} characters; send {_MAX_LENGTH} at most.")
    pairs = [pair.partition("=") for pair in _SEPARATORS.split(attributes)]
    routes = {value.strip() for key, equals, value in pairs if equals and key.strip() == "route"}
    if len(routes) > 1:
        raise RequestError("X-Amzn-SageMaker-Custom-Attributes holds more than one route; send one.")
    return routes.pop() if routes else None


def ids_in(headers: Headers) -> dict[str, str]:
    """By what a caller may look for a request in the log. Of a session's id only as much as tells sessions apart."""
    ids = {field: text[:_MAX_ID_LENGTH] for field, name in _IDS.items() if (text := headers.get(name))}
    session = headers.get(SESSION_ID)
    return ids | {"session_id": short_id(session)} if session and session != NEW_SESSION else ids
