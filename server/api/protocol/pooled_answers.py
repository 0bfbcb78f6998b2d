"""What answers about pooled texts hold, for the documentation: see answers.py."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from headway.server.api.protocol.documented import Documented


class PooledUsage(Documented):
    prompt_tokens: int
    total_tokens: int
    completion_tokens: Literal[0]
    prompt_tokens_details: None


class Embedding(Documented):
    index: int
    object: Literal["embedding"]
    embedding: list[float] | str = Field(description="Numbers, or with encoding_format base64 their bytes.")


class Embeddings(Documented):
    id: str
    object: Literal["list"]
    created: int = Field(description="Seconds since 1970.")
    model: str
    data: list[Embedding]
    usage: PooledUsage


class PooledText(Documented):
    index: int
    object: Literal["pooling"]
    data: list[float] | list[list[float]] | str = Field(description="A vector or scores; with task token_embed a vector a token.")


class PooledTexts(Documented):
    id: str
    object: Literal["list"]
    created: int = Field(description="Seconds since 1970.")
    model: str
    data: list[PooledText]
    usage: PooledUsage


class LabelledText(Documented):
    index: int
    label: str = Field(description="The likeliest.")
    probs: list[float]
    num_classes: int


class Classification(Documented):
    id: str
    object: Literal["list"]
    created: int = Field(description="Seconds since 1970.")
    model: str
    data: list[LabelledText]
    usage: PooledUsage


class Score(Documented):
    index: int
    object: Literal["score"]
    score: float


class Scores(Documented):
    id: str
    object: Literal["list"]
    created: int = Field(description="Seconds since 1970.")
    model: str
    data: list[Score]
    usage: PooledUsage


class RankedDocument(Documented):
    text: str


class Ranked(Documented):
    index: int = Field(description="In the request's documents.")
    relevance_score: float
    document: RankedDocument | None = Field(None, description="Unless return_documents is false.")


class Ranking(Documented):
    id: str
    model: str
    results: list[Ranked] = Field(description="The best first.")
    usage: PooledUsage
