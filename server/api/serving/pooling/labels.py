"""/classify: texts to the probabilities of a classifier's labels."""

from __future__ import annotations

import time
from typing import Any

from headway.server.api.deps import AppState
from headway.server.api.protocol.pooling import ClassifyRequest
from headway.server.api.serving.answer import Answer
from headway.server.api.serving.call import Call
from headway.server.api.serving.pooling.encoding import values_of
from headway.server.api.serving.pooling.inputs import read_inputs
from headway.server.api.serving.pooling.models import pooling_model
from headway.server.api.serving.pooling.pool import PooledAnswer, Pooling
from headway.server.types import Pooled, PoolingParams


async def open_classify(state: AppState, call: Call, request: ClassifyRequest) -> Answer:
    """Raises the errors of deps.ready_model, RequestError, QueueFull, RequestTimedOut."""
    model, info = pooling_model(state, call, request, "Classification API", "classify")
    texts = await read_inputs(state, call, model, request)
    public_id = f"classify-{call.id_of(request)}"
    pooling = Pooling.open(state, call, request, public_id, texts, PoolingParams("classify", request.use_activation))
    head = {"id": public_id, "object": "list", "created": int(time.time()), "model": state.served.name}
    return PooledAnswer(pooling, lambda results: {**head, "data": [_labelled(i, result, info.labels) for i, result in enumerate(results)]})


def _labelled(index: int, result: Pooled, labels: tuple[str, ...]) -> dict[str, Any]:
    (scores,) = values_of(result).tolist()
    return {"index": index, "label": labels[scores.index(max(scores))], "probs": scores, "num_classes": len(scores)}
