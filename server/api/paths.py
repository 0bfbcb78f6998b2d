"""The path of a request below --root-path, and what they are: for the engine, of which API."""

from __future__ import annotations

from starlette.types import Scope

_MESSAGES = "/v1/messages"
# Where the model writes, where it pools texts, and where its text tools are beside.
GENERATION_PATHS = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/invocations"})
POOLING_PATHS = frozenset({"/v1/embeddings", "/pooling", "/classify", "/score", "/v1/score", "/rerank", "/v1/rerank", "/v2/rerank"})
_TEXT_PATHS = frozenset({"/tokenize", "/detokenize", "/v1/responses/input_tokens", "/v1/messages/count_tokens"})
INFERENCE_PATHS = GENERATION_PATHS | POOLING_PATHS | _TEXT_PATHS


def is_generation(scope: Scope) -> bool:
    """Whether an HTTP request is for the engine: under the limits of overload, and traced."""
    if scope["type"] != "http" or scope["method"] != "POST":
        return False
    path = route_path(scope)
    return path in GENERATION_PATHS or path in POOLING_PATHS


def is_of_messages(path: str) -> bool:
    """Whether a route of ``path`` would be one of Anthropic's API, with its headers and errors."""
    return path == _MESSAGES or path.startswith(_MESSAGES + "/")


def route_path(scope: Scope) -> str:
    """The path that routes are found by. A root path may end with a slash: servers put it before the path as it is.

    The same rule as Starlette's router has: who guards a path must mean the one that is served.
    """
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    rest = path.removeprefix(root)
    return rest or "/" if rest[:1] in ("", "/") else path
