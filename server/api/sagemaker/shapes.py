"""Which operation a body asks for: told by its fields, or by ``route=`` in the custom attributes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headway.server.api.protocol.parse import shortened
from headway.server.api.serving.operations import (
    CHAT,
    CLASSIFY,
    COMPLETION,
    COUNT_TOKENS,
    DETOKENIZE,
    EMBEDDING,
    INPUT,
    INPUT_TOKENS,
    MESSAGES,
    POOLING,
    RERANK,
    RESPONSE,
    SCORE,
    TOKENIZE,
    Operation,
)
from headway.server.errors import RequestError

# (the fields that tell it, what they ask for). A body must hold one row's fields and none of another's.
SHAPES: tuple[tuple[frozenset[str], Operation[Any]], ...] = (
    (frozenset({"messages"}), CHAT),
    (frozenset({"messages", "documents"}), CHAT),
    (frozenset({"prompt"}), COMPLETION),
    (frozenset({"messages", "return_token_strs"}), TOKENIZE),
    (frozenset({"prompt", "return_token_strs"}), TOKENIZE),
    (frozenset({"tokens"}), DETOKENIZE),
    (frozenset({"input"}), INPUT),
    (frozenset({"input", "task"}), POOLING),
    (frozenset({"text_1", "text_2"}), SCORE),
    (frozenset({"data_1", "data_2"}), SCORE),
    (frozenset({"queries", "documents"}), SCORE),
    (frozenset({"queries", "items"}), SCORE),
    (frozenset({"query", "documents"}), RERANK),
    (frozenset({"data"}), POOLING),
)

# What ``route=`` may name: inference only, since whoever may invoke an endpoint is not therefore its administrator.
ROUTES: dict[str, Operation[Any]] = {
    **{target.path: target for target in (CHAT, COMPLETION, TOKENIZE, DETOKENIZE, EMBEDDING, SCORE, RERANK, CLASSIFY, POOLING)},
    **{target.path: target for target in (MESSAGES, COUNT_TOKENS, RESPONSE, INPUT_TOKENS)},
    "/v1/score": SCORE,
    "/v1/rerank": RERANK,
    "/v2/rerank": RERANK,
}

_TELLING = frozenset[str]().union(*(fields for fields, _ in SHAPES))


def operation_of(fields: Mapping[str, Any], route: str | None) -> Operation[Any]:
    """The operation that ``route`` names, or that the fields of a body tell. Raises RequestError."""
    return _by_fields(fields) if route is None else _by_route(route)


def _by_route(route: str) -> Operation[Any]:
    if route not in ROUTES:
        raise RequestError(
            f"X-Amzn-SageMaker-Custom-Attributes asks for route {shortened(route)}; routes that can be asked for are {', '.join(ROUTES)}."
        )
    return ROUTES[route]


def _by_fields(fields: Mapping[str, Any]) -> Operation[Any]:
    present = {name for name, value in fields.items() if name in _TELLING and value is not None}
    for shape, target in SHAPES:
        if shape == present:
            return target
    if not present:
        raise RequestError("The body needs messages (for a chat), prompt (for a completion) or input (for vectors and labels).", "messages")
    names = sorted(present, key=list(fields).index)
    shapes = "; ".join(" and ".join(sorted(shape)) for shape, _ in SHAPES)
    raise RequestError(
        f"The body holds {' and '.join(names)}: that is no whole request, or more than one. Send the fields of one: {shapes}.", names[0]
    )
