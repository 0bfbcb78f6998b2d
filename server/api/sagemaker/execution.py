"""GET /execution-parameters: how a batch transform job had best send its records."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from headway.server.api.deps import state_of

# CreateTransformJob refuses more, for MaxPayloadInMB and for MaxConcurrentTransforms times that.
_MAX_MB = 100


async def show_execution_parameters(http: Request) -> Response:
    """503 until the model is ready: the engine decides how many requests it runs at a time."""
    state = state_of(http)
    options, info = state.config.sagemaker, state.ready_model().info
    num_concurrent = min(options.max_concurrent_transforms or info.max_num_seqs, _MAX_MB)
    max_mb = max(1, min(state.config.overload.max_request_body_bytes // 2**20, _MAX_MB // num_concurrent))
    return JSONResponse({"MaxConcurrentTransforms": num_concurrent, "BatchStrategy": options.batch_strategy, "MaxPayloadInMB": max_mb})
