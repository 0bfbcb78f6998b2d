"""Whether the served model can do what a request for vectors, scores or labels asks for."""

from __future__ import annotations

from headway.server.api.deps import AppState, ServedModel
from headway.server.api.protocol.pooling import PoolingFields
from headway.server.api.serving.call import Call
from headway.server.errors import RequestError
from headway.server.types import PoolingInfo, PoolingTask

_ROUTES: dict[PoolingTask, str] = {
    "embed": "vectors of texts (/v1/embeddings, /score, /rerank)",
    "token_embed": "vectors of tokens (/pooling)",
    "classify": "scores (/classify, and with one label /score and /rerank)",
}


def pooling_model(state: AppState, call: Call, request: PoolingFields, api: str, *tasks: PoolingTask) -> tuple[ServedModel, PoolingInfo]:
    """The model, if it has one of ``tasks``. ``api`` is vLLM's name of what is asked for.

    Raises the errors of deps.ready_model, RequestError, ModelNotFound.
    """
    model = state.ready_model()
    state.adapter_of(request.model, call.adapter)  # there are none beside a model that pools: it is the name that is looked at
    info = model.info.pooling
    if info is None:
        raise RequestError(
            f"The model does not support {api}: it is served to generate text. Send messages (a chat) or prompt (a completion); for such "
            "tasks serve a model that is made for them, or this one with --runner pooling."
        )
    if not set(tasks) & set(info.tasks):
        raise RequestError(f"The model does not support {api}: it gives {' and '.join(_ROUTES[task] for task in info.tasks)}.")
    return model, info


def checked_dimensions(info: PoolingInfo, asked: int | None) -> int | None:
    """``dimensions`` for the engine. Raises RequestError for a length that the model's vectors can't have."""
    if asked is None or asked == info.dimension:
        return asked
    if info.matryoshka is None:
        raise RequestError(f"dimensions must be {info.dimension}, or be left out: this model's vectors can't be cut.", "dimensions")
    if asked > info.dimension or (info.matryoshka and asked not in info.matryoshka):
        lengths = ", ".join(map(str, info.matryoshka)) if info.matryoshka else f"1 to {info.dimension}"
        raise RequestError(f"dimensions is {asked}; this model's vectors can have {lengths}.", "dimensions")
    return asked
