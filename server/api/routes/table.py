"""All routes of the server in one place."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.routing import WebSocketRoute

from headway.server.api.deps import Handler
from headway.server.api.protocol.adapters import (
    LoadLoraAdapterRequest,
    RegisterAdapterRequest,
    UnloadLoraAdapterRequest,
    UpdateAdapterRequest,
)
from headway.server.api.protocol.base import RequestModel
from headway.server.api.protocol.chat import ChatCompletionRequest
from headway.server.api.protocol.completion import CompletionRequest
from headway.server.api.protocol.tokenize import DetokenizeRequest, TokenizeRequest
from headway.server.api.routes import info, life, lora, openai, probes
from headway.server.api.sagemaker import adapters, bidirectional, execution, invocations, ping
from headway.server.config.development import DevelopmentConfig


@dataclass(frozen=True, slots=True)
class Route:
    """``bodies``: what the request's body may be, for the documentation; handlers read bodies themselves."""

    methods: str
    path: str
    handler: Handler
    summary: str
    bodies: tuple[type[RequestModel], ...] = ()


INVOCATION_BODIES = (ChatCompletionRequest, CompletionRequest, TokenizeRequest, DetokenizeRequest)

ROUTES = (
    Route("GET POST HEAD", "/ping", ping.ping, "SageMaker's health check"),
    Route("POST", "/invocations", invocations.invoke, "A request of any shape, or JSON lines of several", INVOCATION_BODIES),
    Route("GET", "/execution-parameters", execution.show_execution_parameters, "How a batch transform job should send its records"),
    Route("POST", "/adapters", adapters.register, "Register a LoRA adapter", (RegisterAdapterRequest,)),
    Route("GET", "/adapters", adapters.list_all, "The registered adapters"),
    Route("GET", "/adapters/{name}", adapters.describe, "One registered adapter"),
    Route("POST", "/adapters/{name}/update", adapters.update, "Change a registered adapter", (UpdateAdapterRequest,)),
    Route("DELETE", "/adapters/{name}", adapters.unregister, "Remove an adapter"),
    Route("POST", "/v1/load_lora_adapter", lora.load, "Load a LoRA adapter, as in vLLM", (LoadLoraAdapterRequest,)),
    Route("POST", "/v1/unload_lora_adapter", lora.unload, "Remove an adapter, as in vLLM", (UnloadLoraAdapterRequest,)),
    Route("POST", "/v1/chat/completions", openai.create_chat_completion, "Answer a chat", (ChatCompletionRequest,)),
    Route("POST", "/v1/completions", openai.create_completion, "Continue prompts", (CompletionRequest,)),
    Route("GET", "/v1/models", openai.list_models, "The served model's names"),
    Route("GET", "/v1/models/{model_id:path}", openai.show_model, "One name of the served model"),
    Route("POST", "/tokenize", openai.tokenize, "Token ids of a text or a chat", (TokenizeRequest,)),
    Route("POST", "/detokenize", openai.detokenize, "Text of token ids", (DetokenizeRequest,)),
    Route("GET", "/tokenizer_info", openai.show_tokenizer_info, "The tokenizer's configuration, with --enable-tokenizer-info-endpoint"),
    Route("GET HEAD", "/health", probes.show_health, "Whether requests are served, and why not"),
    Route("GET", "/version", probes.show_version, "This server's version"),
    Route("GET", "/load", probes.show_load, "How many requests are being answered"),
    Route("GET", "/metrics", probes.show_metrics, "Prometheus metrics"),
    Route("GET", "/metrics/", probes.show_metrics, "Prometheus metrics, as some scrapers spell it"),
)

SLEEP_ROUTES = (
    Route("POST", "/sleep", life.sleep, "Give the device's memory back for a while"),
    Route("POST", "/wake_up", life.wake_up, "Take it again and serve"),
    Route("GET", "/is_sleeping", life.is_sleeping, "Whether the engine sleeps"),
)

DEVELOPMENT_ROUTES = (
    Route("POST", "/reset_prefix_cache", life.reset_prefix_cache, "Forget all computed prefixes"),
    Route("GET", "/server_info", info.show_server_info, "Effective options, secrets masked"),
    Route("POST", "/pause", life.pause, "Stop scheduling: sleep at level 0"),
    Route("POST", "/resume", life.resume, "Schedule again"),
    Route("GET", "/is_paused", life.is_paused, "Whether scheduling is stopped"),
)

# Where the model answers, and where its text tools do.
GENERATION_PATHS = frozenset({"/v1/chat/completions", "/v1/completions", "/invocations"})
INFERENCE_PATHS = GENERATION_PATHS | {"/tokenize", "/detokenize"}

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
    if path.startswith("/adapters/"):
        return "/adapters/{name}/update" if path.endswith("/update") else "/adapters/{name}"
    return "none"


_PATHS = frozenset(route.path for route in (*ROUTES, *SLEEP_ROUTES, *DEVELOPMENT_ROUTES) if "{" not in route.path)
