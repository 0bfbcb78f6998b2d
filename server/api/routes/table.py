"""All routes of the server in one place."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.routing import WebSocketRoute

from headway.server.api.deps import Handler
from headway.server.api.routes import docs, info, life, lora, models, probes, responses
from headway.server.api.routes.answers import answering
from headway.server.api.routes.docs import Docs
from headway.server.api.sagemaker import adapters, bidirectional, execution, invocations, ping
from headway.server.api.serving.operations import (
    CHAT,
    CLASSIFY,
    COMPLETION,
    COUNT_TOKENS,
    DETOKENIZE,
    EMBEDDING,
    INPUT_TOKENS,
    MESSAGES,
    POOLING,
    RERANK,
    RESPONSE,
    SCORE,
    TOKENIZE,
)
from headway.server.config.development import DevelopmentConfig


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
    Route("POST", "/v1/chat/completions", answering(CHAT), "Answer a chat", docs.CHAT),
    Route("POST", "/v1/completions", answering(COMPLETION), "Continue prompts", docs.COMPLETION),
    Route("POST", "/v1/responses", answering(RESPONSE), "Answer with items, and keep them", docs.RESPONSE),
    Route("POST", "/v1/responses/input_tokens", answering(INPUT_TOKENS), "Tokens of such a request's prompt", docs.INPUT_TOKENS),
    Route("GET", "/v1/responses/{response_id}", responses.retrieve, "A response that is kept", docs.RETRIEVE_RESPONSE),
    Route("DELETE", "/v1/responses/{response_id}", responses.delete, "Forget a response", docs.DELETE_RESPONSE),
    Route("POST", "/v1/responses/{response_id}/cancel", responses.cancel, "End a background response", docs.CANCEL_RESPONSE),
    Route("GET", "/v1/responses/{response_id}/input_items", responses.list_input_items, "What a response answers", docs.INPUT_ITEMS),
    Route("POST", "/v1/messages", answering(MESSAGES), "Answer a conversation, in Anthropic's form", docs.MESSAGES),
    Route("POST", "/v1/messages/count_tokens", answering(COUNT_TOKENS), "How many tokens a conversation's prompt has", docs.COUNT_TOKENS),
    Route("POST", "/v1/embeddings", answering(EMBEDDING), "Vectors of texts", docs.EMBEDDINGS),
    Route("POST", "/pooling", answering(POOLING), "Vectors of texts or of their tokens, or scores of labels", docs.POOL),
    Route("POST", "/classify", answering(CLASSIFY), "Labels of texts", docs.CLASSIFY),
    Route("POST", "/score", answering(SCORE), "How well texts go together", docs.SCORE),
    Route("POST", "/v1/score", answering(SCORE), "How well texts go together", docs.SCORE),
    Route("POST", "/rerank", answering(RERANK), "Documents by how well they answer a query", docs.RERANK),
    Route("POST", "/v1/rerank", answering(RERANK), "Documents by how well they answer a query, as Jina has it", docs.RERANK),
    Route("POST", "/v2/rerank", answering(RERANK), "Documents by how well they answer a query, as Cohere has it", docs.RERANK),
    Route("GET", "/v1/models", models.list_models, "The served model's names", docs.MODELS),
    Route("GET", "/v1/models/{model_id:path}", models.show_model, "One name of the served model", docs.MODEL),
    Route("POST", "/tokenize", answering(TOKENIZE), "Token ids of a text or a chat", docs.TOKENIZE),
    Route("POST", "/detokenize", answering(DETOKENIZE), "Text of token ids", docs.DETOKENIZE),
    Route(
        "GET",
        "/tokenizer_info",
        models.show_tokenizer_info,
        "The tokenizer's configuration, with --enable-tokenizer-info-endpoint",
        docs.TOKENIZER_INFO,
    ),
    Route("GET HEAD", "/health", probes.show_health, "Whether requests are served, and why not", docs.HEALTH),
    Route("GET", "/version", probes.show_version, "This server's version", docs.VERSION),
    Route("GET", "/load", probes.show_load, "How many requests are being answered", docs.LOAD),
    Route("GET", "/metrics", probes.show_metrics, "Prometheus metrics", docs.METRICS),
    Route("GET", "/metrics/", probes.show_metrics, "Prometheus metrics, as some scrapers spell it", docs.METRICS),
)

SLEEP_ROUTES = (
    Route("POST", "/sleep", life.sleep, "Give the device's memory back for a while", docs.SLEEP),
    Route("POST", "/wake_up", life.wake_up, "Take it again and serve", docs.WAKE_UP),
    Route("GET", "/is_sleeping", life.is_sleeping, "Whether the engine sleeps", docs.IS_SLEEPING),
)

DEVELOPMENT_ROUTES = (
    Route("POST", "/reset_prefix_cache", life.reset_prefix_cache, "Forget all computed prefixes", docs.RESET_PREFIX_CACHE),
    Route("GET", "/server_info", info.show_server_info, "Effective options, secrets masked", docs.SERVER_INFO),
    Route("POST", "/pause", life.pause, "Stop scheduling: sleep at level 0", docs.PAUSE),
    Route("POST", "/resume", life.resume, "Schedule again", docs.RESUME),
    Route("GET", "/is_paused", life.is_paused, "Whether scheduling is stopped", docs.IS_PAUSED),
)

WEBSOCKETS = (WebSocketRoute("/invocations-bidirectional-stream", bidirectional.converse),)


def routes_of(development: DevelopmentConfig) -> tuple[Route, ...]:
    """Those that this server has."""
    return (
        *ROUTES,
        *(SLEEP_ROUTES if development.enable_sleep_mode else ()),
        *(DEVELOPMENT_ROUTES if development.enable_dev_routes else ()),
    )


def template_of(path: str) -> str:
    """The route's path for a request's path, "none" where there is no such route: a label of few values."""
    if path in _PATHS:
        return path
    if path.startswith("/v1/models/"):
        return "/v1/models/{model_id}"
    if path.startswith("/v1/responses/"):
        rest = path.removeprefix("/v1/responses/").partition("/")[2]
        return "/v1/responses/{response_id}" + (f"/{rest}" if rest in ("cancel", "input_items") else "")
    if path.startswith("/adapters/"):
        return "/adapters/{name}/update" if path.endswith("/update") else "/adapters/{name}"
    return "none"


_PATHS = frozenset(route.path for route in (*ROUTES, *SLEEP_ROUTES, *DEVELOPMENT_ROUTES) if "{" not in route.path)
