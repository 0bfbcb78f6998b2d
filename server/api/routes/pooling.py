"""POST /v1/embeddings, /pooling, /classify, /score and /rerank: texts to vectors, labels and scores."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from headway.server.api.routes.answers import answer_to
from headway.server.api.serving.operations import CLASSIFY, EMBEDDING, POOLING, RERANK, SCORE


async def create_embedding(http: Request) -> Response:
    return await answer_to(http, EMBEDDING)


async def pool(http: Request) -> Response:
    return await answer_to(http, POOLING)


async def classify(http: Request) -> Response:
    return await answer_to(http, CLASSIFY)


async def score(http: Request) -> Response:
    return await answer_to(http, SCORE)


async def rerank(http: Request) -> Response:
    return await answer_to(http, RERANK)
