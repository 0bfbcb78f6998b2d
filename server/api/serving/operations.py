"""What a request can ask of the model: each operation once, for its own route, for /invocations and for the WebSocket."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from headway.server.api.deps import AppState
from headway.server.api.protocol.anthropic import CountTokensRequest, MessagesRequest
from headway.server.api.protocol.base import RequestModel
from headway.server.api.protocol.chat import ChatCompletionRequest
from headway.server.api.protocol.completion import CompletionRequest
from headway.server.api.protocol.pooling import ClassifyRequest, EmbeddingRequest, PoolingRequest, RerankRequest, ScoreRequest
from headway.server.api.protocol.responses import ResponsesRequest
from headway.server.api.protocol.tokenize import DetokenizeRequest, TokenizeRequest
from headway.server.api.serving.answer import Answer
from headway.server.api.serving.anthropic.messages import open_count_tokens, open_messages
from headway.server.api.serving.call import Call
from headway.server.api.serving.chat import open_chat
from headway.server.api.serving.completion import open_completion
from headway.server.api.serving.pooling.labels import open_classify
from headway.server.api.serving.pooling.scores import open_rerank, open_score
from headway.server.api.serving.pooling.vectors import open_embeddings, open_input, open_pooling
from headway.server.api.serving.responses.opening import open_input_tokens, open_response
from headway.server.api.serving.tokens import open_detokenize, open_tokenize
from headway.server.api.stream import EVENTS, MESSAGE_EVENTS, TYPED_EVENTS, Framing

_Model = TypeVar("_Model", bound=RequestModel)


@dataclass(frozen=True, slots=True)
class Operation(Generic[_Model]):
    """``model``: what its request's body must be. ``open`` begins the work, or raises a HeadwayError. ``framing``: of its event stream."""

    path: str
    model: type[_Model]
    open: Callable[[AppState, Call, _Model], Awaitable[Answer]]
    framing: Framing = EVENTS


CHAT = Operation("/v1/chat/completions", ChatCompletionRequest, open_chat)
COMPLETION = Operation("/v1/completions", CompletionRequest, open_completion)
RESPONSE = Operation("/v1/responses", ResponsesRequest, open_response, TYPED_EVENTS)
INPUT_TOKENS = Operation("/v1/responses/input_tokens", ResponsesRequest, open_input_tokens)
MESSAGES = Operation("/v1/messages", MessagesRequest, open_messages, MESSAGE_EVENTS)
COUNT_TOKENS = Operation("/v1/messages/count_tokens", CountTokensRequest, open_count_tokens)
TOKENIZE = Operation("/tokenize", TokenizeRequest, open_tokenize)
EMBEDDING = Operation("/v1/embeddings", EmbeddingRequest, open_embeddings)
INPUT = Operation("/v1/embeddings", EmbeddingRequest, open_input)  # a body with input alone, on a route for all
POOLING = Operation("/pooling", PoolingRequest, open_pooling)
CLASSIFY = Operation("/classify", ClassifyRequest, open_classify)
SCORE = Operation("/score", ScoreRequest, open_score)
RERANK = Operation("/rerank", RerankRequest, open_rerank)
DETOKENIZE = Operation("/detokenize", DetokenizeRequest, open_detokenize)
