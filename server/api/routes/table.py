"""All routes of the server in one place."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.routing import WebSocketRoute

from headway.server.api.deps import Handler
from headway.server.api.routes import docs, lora, openai, probes
from headway.server.api.routes.docs import Docs
from headway.server.api.sagemaker import adapters, bidirectional, execution, invocations, ping


@dataclass(frozen=True, slots=True)
class Route:
    """``docs`` and ``summary`` are for the documentation."""

    methods: str
    path: str
    handler: Handler
    summary: str
    docs: Docs


ROUTES = (
    Route("GET POST HEAD", "/ping", ping.ping, "SageMaker's health check", docs.PING),
    Route("POST", "/invocations", invocations.invoke, "A request of any shape, or JSON lines of several", docs.INVOKE),
    Route(
        "GET",
        "/execution-parameters",
        execution.show_execution_parameters,
        "How a batch transform job should send its records",
        docs.EXECUTION,
    ),
    Route("POST", "/adapters", adapters.register, "Register a LoRA adapter", docs.REGISTER),
    Route("GET", "/adapters", adapters.list_all, "The registered adapters", docs.ADAPTERS),
    Route("GET", "/adapters/{name}", adapters.describe, "One registered adapter", docs.ADAPTER),
    Route("POST", "/adapters/{name}/update", adapters.update, "Change a registered adapter", docs.UPDATE),
    Route("DELETE", "/adapters/{name}", adapters.unregister, "Remove an adapter", docs.UNREGISTER),
    Route("POST", "/v1/load_lora_adapter", lora.load, "Load a LoRA adapter, as in vLLM", docs.LOAD_LORA),
    Route("POST", "/v1/unload_lora_adapter", lora.unload, "Remove an adapter, as in vLLM", docs.UNLOAD_LORA),
    Route("POST", "/v1/chat/completions", openai.create_chat_completion, "Answer a chat", docs.CHAT),
    Route("POST", "/v1/completions", openai.create_completion, "Continue prompts", docs.COMPLETION),
    Route("GET", "/v1/models", openai.list_models, "The served model's names", docs.MODELS),
    Route("GET", "/v1/models/{model_id:path}", openai.show_model, "One name of the served model", docs.MODEL),
    Route("POST", "/tokenize", openai.tokenize, "Token ids of a text or a chat", docs.TOKENIZE),
    Route("POST", "/detokenize", openai.detokenize, "Text of token ids", docs.DETOKENIZE),
    Route("GET HEAD", "/health", probes.show_health, "Whether requests are served, and why not", docs.HEALTH),
    Route("GET", "/version", probes.show_version, "This server's version", docs.VERSION),
    Route("GET", "/load", probes.show_load, "Generation requests that are being answered", docs.LOAD),
    Route("GET", "/metrics", probes.show_metrics, "Prometheus metrics", docs.METRICS),
    Route("GET", "/metrics/", probes.show_metrics, "Prometheus metrics, as some scrapers spell it", docs.METRICS),
)

WEBSOCKETS = (WebSocketRoute("/invocations-bidirectional-stream", bidirectional.converse),)


def template_of(path: str) -> str:
    """The route's path for a request's path, "none" where there is no such route: a label of few values."""
    if path in _PATHS:
        return path
    if path.startswith("/v1/models/"):
        return "/v1/models/{model_id}"
    if path.startswith("/adapters/"):
        return "/adapters/{name}/update" if path.endswith("/update") else "/adapters/{name}"
    return "none"


_PATHS = frozenset(route.path for route in ROUTES if "{" not in route.path)
