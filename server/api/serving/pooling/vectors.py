"""/v1/embeddings and /pooling: texts to vectors, of each text or of each token."""

from __future__ import annotations

import time
from typing import Any

from headway.server.api.deps import AppState
from headway.server.api.protocol.pooling import ClassifyRequest, EmbeddingRequest, PoolingRequest, VectorRequest
from headway.server.api.serving.answer import Answer
from headway.server.api.serving.call import Call
from headway.server.api.serving.pooling.encoding import shown_vectors
from headway.server.api.serving.pooling.inputs import read_inputs
from headway.server.api.serving.pooling.labels import open_classify
from headway.server.api.serving.pooling.models import checked_dimensions, pooling_model
from headway.server.api.serving.pooling.pool import PooledAnswer, Pooling
from headway.server.errors import RequestError
from headway.server.types import Pooled, PoolingParams, PoolingTask


async def open_embeddings(state: AppState, call: Call, request: EmbeddingRequest) -> Answer:
    """Raises the errors of deps.ready_model, RequestError, QueueFull, RequestTimedOut."""
    model, info = pooling_model(state, call, request, "Embeddings API", "embed")
    dimensions = checked_dimensions(info, request.dimensions)
    texts = await read_inputs(state, call, model, request)
    public_id = f"embd-{call.id_of(request)}"
    pooling = Pooling.open(state, call, request, public_id, texts, PoolingParams("embed", request.use_activation, dimensions))
    return PooledAnswer(pooling, _Listed(state, request, public_id, "embedding", "embedding"))


async def open_pooling(state: AppState, call: Call, request: PoolingRequest) -> Answer:
    """Raises as open_embeddings does."""
    tasks: tuple[PoolingTask, ...] = (request.task,) if request.task is not None else ("embed", "token_embed", "classify")
    model, info = pooling_model(
        state, call, request, "Pooling API" if request.task is None else f"Pooling API with task {request.task}", *tasks
    )
    task = request.task or info.tasks[0]
    if task == "classify" and request.dimensions is not None:
        raise RequestError("dimensions is about vectors, and scores of labels are asked for; leave it out.", "dimensions")
    dimensions = checked_dimensions(info, request.dimensions)
    texts = await read_inputs(state, call, model, request)
    public_id = f"pool-{call.id_of(request)}"
    pooling = Pooling.open(state, call, request, public_id, texts, PoolingParams(task, request.use_activation, dimensions))
    return PooledAnswer(pooling, _Listed(state, request, public_id, "pooling", "data", has_rows=task == "token_embed"))


async def open_input(state: AppState, call: Call, request: EmbeddingRequest) -> Answer:
    """Where only the body says what is asked for: a classifier's labels, else vectors. Raises as open_embeddings does."""
    model = state.ready_model()
    if model.info.pooling is None or "classify" not in model.info.pooling.tasks:
        return await open_embeddings(state, call, request)
    fields = {name: getattr(request, name) for name in request.model_fields_set}
    if alien := fields.keys() - ClassifyRequest.model_fields.keys():
        name = min(alien)
        raise RequestError(f"{name} is about vectors, and this model gives scores of labels; leave it out.", name)
    return await open_classify(state, call, ClassifyRequest(**fields))


class _Listed:
    """Writes results as OpenAI lists vectors."""

    def __init__(self, state: AppState, request: VectorRequest, public_id: str, kind: str, member: str, has_rows: bool = False) -> None:
        """``kind``: what each is called; ``member``: where its numbers are. ``has_rows``: it is a list of vectors, one a token."""
        self._request = request
        self._head = {"id": public_id, "object": "list", "created": int(time.time()), "model": state.served.name}
        self._kind = kind
        self._member = member
        self._has_rows = has_rows

    def __call__(self, results: list[Pooled]) -> dict[str, Any]:
        shown = [shown_vectors(pooled, self._request, self._has_rows) for pooled in results]
        data = [{"index": index, "object": self._kind, self._member: numbers} for index, numbers in enumerate(shown)]
        return {**self._head, "data": data}
