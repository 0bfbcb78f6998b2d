"""What the OpenAPI document says of each route beside its summary. Handlers read requests themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from headway.server.api.media import JSON_LINES
from headway.server.api.protocol import answers, anthropic_answers, pooled_answers
from headway.server.api.protocol.adapters import (
    LoadLoraAdapterRequest,
    RegisterAdapterRequest,
    UnloadLoraAdapterRequest,
    UpdateAdapterRequest,
)
from headway.server.api.protocol.anthropic import CountTokensRequest, MessagesRequest
from headway.server.api.protocol.base import RequestModel
from headway.server.api.protocol.chat import ChatCompletionRequest
from headway.server.api.protocol.completion import CompletionRequest
from headway.server.api.protocol.life import PauseRequest, ResetPrefixCacheRequest, ServerInfoRequest, SleepRequest, WakeUpRequest
from headway.server.api.protocol.pooling import ClassifyRequest, EmbeddingRequest, PoolingRequest, RerankRequest, ScoreRequest
from headway.server.api.protocol.responses import ListInputItems, ResponsesRequest, RetrieveResponse
from headway.server.api.protocol.tokenize import DetokenizeRequest, TokenizeRequest
from headway.server.api.stream import EVENTS


@dataclass(frozen=True, slots=True)
class Parameter:
    """One of the path, the query or the headers. ``schema`` is JSON Schema."""

    name: str
    place: Literal["path", "query", "header"]
    description: str
    schema: dict[str, Any]


def _queries(model: type[RequestModel]) -> tuple[Parameter, ...]:
    """Of a model whose fields come in the query."""
    described: dict[str, dict[str, Any]] = model.model_json_schema().get("properties", {})
    return tuple(Parameter(name, "query", schema.get("description", ""), schema) for name, schema in described.items())


@dataclass(frozen=True, slots=True)
class Docs:
    """``bodies``: what the request's body may be, in JSON; a text in other ``body_types``. ``answer``: likewise of a 200, whose
    JSON it is; None: there is no JSON. ``errors``: statuses beside 401; ``error``: what they answer."""

    tag: str = "Server"
    bodies: tuple[type[RequestModel], ...] = ()
    body_types: tuple[str, ...] = ()
    answer: type[BaseModel] | None = None
    answer_types: tuple[str, ...] = ()
    errors: tuple[int, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    error: type[BaseModel] = answers.ErrorAnswer


INVOCATION_BODIES = (
    ChatCompletionRequest,
    CompletionRequest,
    TokenizeRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    PoolingRequest,
    ScoreRequest,
    RerankRequest,
)

_BODY = (400, 413, 415)
_MODEL = (*_BODY, 404, 503, 504, 507)
_CHANGE = (*_BODY, 404, 409, 503, 507)
_TEXT = "text/plain"
_NAME: dict[str, Any] = {"type": "string", "minLength": 1}
_ADAPTER_HEADER = Parameter("X-Amzn-SageMaker-Adapter-Identifier", "header", "An adapter's name; it goes before the body's model.", _NAME)
_ALIAS = Parameter("X-Amzn-SageMaker-Adapter-Alias", "header", "The name that the answer shows.", _NAME)
_ADAPTER = Parameter("name", "path", "An adapter's name.", _NAME)
_RESPONSE_ID = Parameter("response_id", "path", "The response's id.", _NAME)

CHAT = Docs("Generate", (ChatCompletionRequest,), (), answers.ChatCompletion, (EVENTS.media_type,), _MODEL, (_ADAPTER_HEADER,))
COMPLETION = Docs("Generate", (CompletionRequest,), (), answers.Completion, (EVENTS.media_type,), _MODEL, (_ADAPTER_HEADER,))
RESPONSE = Docs("Generate", (ResponsesRequest,), (), answers.Response, (EVENTS.media_type,), _MODEL, (_ADAPTER_HEADER,))
INPUT_TOKENS = Docs("Tokens", (ResponsesRequest,), answer=answers.ResponseInputTokens, errors=_MODEL, parameters=(_ADAPTER_HEADER,))
RETRIEVE_RESPONSE = Docs(
    "Generate",
    answer=answers.Response,
    answer_types=(EVENTS.media_type,),
    errors=(400, 404),
    parameters=(_RESPONSE_ID, *_queries(RetrieveResponse)),
)
DELETE_RESPONSE = Docs("Generate", answer=answers.DeletedResponse, errors=(404,), parameters=(_RESPONSE_ID,))
CANCEL_RESPONSE = Docs("Generate", answer=answers.Response, errors=(400, 404), parameters=(_RESPONSE_ID,))
INPUT_ITEMS = Docs("Generate", answer=answers.InputItems, errors=(400, 404), parameters=(_RESPONSE_ID, *_queries(ListInputItems)))
MESSAGES = Docs(
    "Generate",
    (MessagesRequest,),
    (),
    anthropic_answers.MessageAnswer,
    (EVENTS.media_type,),
    _MODEL,
    (_ADAPTER_HEADER,),
    error=anthropic_answers.AnthropicErrorAnswer,
)
COUNT_TOKENS = Docs(
    "Tokens",
    (CountTokensRequest,),
    answer=anthropic_answers.InputTokens,
    errors=_MODEL,
    parameters=(_ADAPTER_HEADER,),
    error=anthropic_answers.AnthropicErrorAnswer,
)
TOKENIZE = Docs("Tokens", (TokenizeRequest,), answer=answers.Tokens, errors=_MODEL, parameters=(_ADAPTER_HEADER,))
DETOKENIZE = Docs("Tokens", (DetokenizeRequest,), answer=answers.Text, errors=_MODEL, parameters=(_ADAPTER_HEADER,))
EMBEDDINGS = Docs("Pool", (EmbeddingRequest,), answer=pooled_answers.Embeddings, errors=_MODEL)
POOL = Docs("Pool", (PoolingRequest,), answer=pooled_answers.PooledTexts, errors=_MODEL)
CLASSIFY = Docs("Pool", (ClassifyRequest,), answer=pooled_answers.Classification, errors=_MODEL)
SCORE = Docs("Pool", (ScoreRequest,), answer=pooled_answers.Scores, errors=_MODEL)
RERANK = Docs("Pool", (RerankRequest,), answer=pooled_answers.Ranking, errors=_MODEL)
MODELS = Docs("Models", answer=answers.ModelList, errors=(503,))
MODEL = Docs(
    "Models",
    answer=answers.ModelCard,
    errors=(404, 503),
    parameters=(Parameter("model_id", "path", "A served name, or an adapter's.", _NAME),),
)

PING = Docs("SageMaker", answer=answers.HealthAnswer)
INVOKE = Docs(
    "SageMaker",
    INVOCATION_BODIES,
    JSON_LINES,
    answers.InvocationAnswer,
    (EVENTS.media_type, *JSON_LINES),
    (*_MODEL, 406, 424),
    (
        Parameter(
            "X-Amzn-SageMaker-Custom-Attributes",
            "header",
            "Goes back as it came. Where it holds route=/tokenize, say, that is what is asked for.",
            {"type": "string", "maxLength": 1024},
        ),
        Parameter("X-Amzn-SageMaker-Session-Id", "header", "Of a stateful session; NEW_SESSION opens one.", {"type": "string"}),
        _ADAPTER_HEADER,
    ),
)
EXECUTION = Docs("SageMaker", answer=answers.ExecutionParameters, errors=(503,))

REGISTER = Docs("Adapters", (RegisterAdapterRequest,), answer=answers.AdapterStatus, errors=_CHANGE, parameters=(_ALIAS,))
UPDATE = Docs("Adapters", (UpdateAdapterRequest,), answer=answers.AdapterStatus, errors=_CHANGE, parameters=(_ADAPTER, _ALIAS))
UNREGISTER = Docs("Adapters", answer=answers.AdapterStatus, errors=(400, 404, 503), parameters=(_ADAPTER, _ALIAS))
ADAPTERS = Docs(
    "Adapters",
    answer=answers.AdapterPage,
    errors=(400,),
    parameters=(
        Parameter("limit", "query", "Adapters on a page.", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}),
        Parameter("next_page_token", "query", "nextPageToken of the page before.", {"type": "string", "pattern": "^[0-9]{1,9}$"}),
    ),
)
ADAPTER = Docs("Adapters", answer=answers.OneAdapter, errors=(400, 404), parameters=(_ADAPTER,))
LOAD_LORA = Docs("Adapters", (LoadLoraAdapterRequest,), answer_types=(_TEXT,), errors=_CHANGE)
UNLOAD_LORA = Docs("Adapters", (UnloadLoraAdapterRequest,), answer_types=(_TEXT,), errors=_MODEL)

HEALTH = Docs(answer=answers.HealthAnswer)
VERSION = Docs(answer=answers.VersionAnswer)
LOAD = Docs(answer=answers.LoadAnswer)
METRICS = Docs(answer_types=(_TEXT,))
TOKENIZER_INFO = Docs("Tokens", answer=answers.TokenizerInfo, errors=(404, 503))

_LIFE = (400, 409, 503)
SLEEP = Docs("Operation", answer=answers.SleepAnswer, errors=_LIFE, parameters=_queries(SleepRequest))
WAKE_UP = Docs("Operation", answer=answers.WakeUpAnswer, errors=_LIFE, parameters=_queries(WakeUpRequest))
IS_SLEEPING = Docs("Operation", answer=answers.IsSleepingAnswer, errors=(400,))
RESET_PREFIX_CACHE = Docs("Operation", answer=answers.ResetAnswer, errors=_LIFE, parameters=_queries(ResetPrefixCacheRequest))
SERVER_INFO = Docs("Operation", answer=answers.ServerInfoAnswer, errors=(400,), parameters=_queries(ServerInfoRequest))
PAUSE = Docs("Operation", answer=answers.PauseAnswer, errors=_LIFE, parameters=_queries(PauseRequest))
RESUME = Docs("Operation", answer=answers.ResumeAnswer, errors=_LIFE)
IS_PAUSED = Docs("Operation", answer=answers.IsPausedAnswer, errors=(400,))
