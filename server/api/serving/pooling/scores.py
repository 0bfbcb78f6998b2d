"""/score and /rerank: how well texts go together, by a model that reads both at once, or by the angle between their vectors."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from headway.server.api.deps import AppState, ServedModel
from headway.server.api.off_loop import off_loop
from headway.server.api.protocol.pooling import PoolingFields, RerankRequest, ScoreRequest
from headway.server.api.serving.answer import Answer
from headway.server.api.serving.call import Call
from headway.server.api.serving.pooling.encoding import values_of
from headway.server.api.serving.pooling.inputs import check_number, encoded_pairs, encoded_texts
from headway.server.api.serving.pooling.models import pooling_model
from headway.server.api.serving.pooling.pool import PooledAnswer, Pooling
from headway.server.errors import RequestError
from headway.server.text.fitted import Fitted
from headway.server.types import Pooled, PoolingParams

Scores = Callable[[list[Pooled]], list[float]]


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Parallel lists. ``max_second``: cut each second text to so many tokens first."""

    names: tuple[str, str]  # of the request's fields that hold them
    firsts: list[str]
    seconds: list[str]
    max_second: int | None


async def open_score(state: AppState, call: Call, request: ScoreRequest) -> Answer:
    """Raises the errors of deps.ready_model, RequestError, QueueFull, RequestTimedOut."""
    public_id = f"score-{call.id_of(request)}"
    pairs = _Pairs(request.names, *request.pairs, request.max_tokens_per_doc)
    pooling, scores = await _open_pairs(state, call, request, "Score API", public_id, pairs)
    head = {"id": public_id, "object": "list", "created": int(time.time()), "model": state.served.name}

    def write(results: list[Pooled]) -> dict[str, Any]:
        return {**head, "data": [{"index": i, "object": "score", "score": score} for i, score in enumerate(scores(results))]}

    return PooledAnswer(pooling, write)


async def open_rerank(state: AppState, call: Call, request: RerankRequest) -> Answer:
    """Raises as open_score does."""
    public_id = f"rerank-{call.id_of(request)}"
    firsts = [request.query] * len(request.documents)
    pairs = _Pairs(("query", "documents"), firsts, request.documents, request.max_tokens_per_doc)
    pooling, scores = await _open_pairs(state, call, request, "Rerank (Score) API", public_id, pairs)

    def write(results: list[Pooled]) -> dict[str, Any]:
        return {"id": public_id, "model": state.served.name, "results": _ranked(request, scores(results))}

    return PooledAnswer(pooling, write)


def _ranked(request: RerankRequest, scores: list[float]) -> list[dict[str, Any]]:
    """The best first; those alike in the order of the request."""
    order = sorted(range(len(scores)), key=lambda index: -scores[index])[: request.top_n or None]
    ranked: list[dict[str, Any]] = [{"index": index, "relevance_score": scores[index]} for index in order]
    if request.return_documents:
        for entry in ranked:
            entry["document"] = {"text": request.documents[entry["index"]]}
    return ranked


async def _open_pairs(
    state: AppState, call: Call, request: PoolingFields, api: str, public_id: str, pairs: _Pairs
) -> tuple[Pooling, Scores]:
    """The texts to pool, and how their results become a score a pair."""
    model, info = pooling_model(state, call, request, api, "embed", "classify")
    firsts, seconds, second_name = pairs.firsts, pairs.seconds, pairs.names[1]
    check_number(state, len(seconds), second_name)
    if info.scores_pairs:
        joined = await off_loop(call.num_bytes, lambda: encoded_pairs(model, request, firsts, seconds, pairs.max_second, second_name))
        return Pooling.open(state, call, request, public_id, joined, PoolingParams("classify", request.use_activation)), _single_scores
    if "embed" not in info.tasks:
        raise RequestError(f"The model does not support {api}: it has {len(info.labels)} labels, and a score of two texts is one number.")
    if request.use_activation is False:
        raise RequestError("use_activation can't be false here: the score is the cosine of two vectors' angle.", "use_activation")
    # Each text once, however many pairs it is in.
    own_firsts = list(dict.fromkeys(firsts))
    texts = await off_loop(call.num_bytes, lambda: _apart(model, request, own_firsts, pairs))
    places = {text: place for place, text in enumerate(own_firsts)}
    scores = partial(_cosines, [places[text] for text in firsts], len(own_firsts))
    return Pooling.open(state, call, request, public_id, texts, PoolingParams("embed", True)), scores


def _apart(model: ServedModel, request: PoolingFields, own_firsts: list[str], pairs: _Pairs) -> list[Fitted]:
    """The first texts, each once, then the second ones."""
    firsts = encoded_texts(model, request, own_firsts, pairs.names[0])
    return [*firsts, *encoded_texts(model, request, pairs.seconds, pairs.names[1], pairs.max_second)]


def _single_scores(results: list[Pooled]) -> list[float]:
    return [float(values_of(result)[0, 0]) for result in results]


def _cosines(first_of: Sequence[int], num_firsts: int, results: list[Pooled]) -> list[float]:
    """``first_of``: of each pair, which of the first ``num_firsts`` results is its first text; its second follows in order."""
    import numpy as np

    vectors = np.concatenate([values_of(result) for result in results])
    cosines: list[float] = (vectors[list(first_of)] * vectors[num_firsts:]).sum(axis=1).tolist()
    return cosines
