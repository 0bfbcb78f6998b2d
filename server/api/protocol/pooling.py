"""The bodies of /v1/embeddings, /pooling, /classify, /score and /rerank."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import FailFast, Field, StringConstraints

from headway.server.api.protocol.base import MAX_KEYS, CacheSalt, Priority, RequestId, RequestModel, Timeout, at_most, shown_with
from headway.server.api.protocol.messages import Message, check_messages
from headway.server.api.protocol.texts import Texts, TextsOrIds
from headway.server.errors import RequestError
from headway.server.types import PoolingTask


class PoolingFields(RequestModel):
    """What all of these requests have."""

    OPERATION: ClassVar[str]  # OpenTelemetry's name for what is asked for

    model: str | None = Field(None, description="A served name; missing or empty: the model that is served.")
    truncate_prompt_tokens: int | None = Field(
        None,
        ge=-1,
        lt=2**31,
        description="Cut what is longer to so many tokens; -1: to the most that the model takes. Else it is a 400.",
    )
    truncation_side: Literal["left", "right"] = Field("right", description="Where tokens are cut off.")
    use_activation: bool | None = Field(
        None, description="Normalise vectors, make scores probabilities; default: as the model was trained for."
    )
    priority: Priority = 0
    timeout: Timeout = None
    request_id: RequestId | None = None

    # Bookkeeping: it changes no answer. Nothing is cached that a salt would keep apart.
    user: str | None = None
    cache_salt: CacheSalt | None = None

    REFUSED: ClassVar[dict[str, tuple[Any, ...]]] = {
        "data": (),
        "mm_processor_kwargs": (),
        "media_io_kwargs": (),
        "embed_requests": (),
        "instruction": (),
        "return_token_ids": (False,),
    }


class InputRequest(PoolingFields):
    """Texts, or a chat as one text."""

    input: TextsOrIds | None = None
    messages: Annotated[list[Message], FailFast()] = Field(default_factory=list, description="A chat in the place of input.")
    add_special_tokens: bool | None = Field(None, description="Default: true for input, false for messages.")
    add_generation_prompt: bool = False
    continue_final_message: bool = False
    chat_template: str | None = Field(None, description="In the place of the model's; needs --trust-request-chat-template.")
    chat_template_kwargs: Annotated[dict[str, Any], at_most(MAX_KEYS)] = Field(default_factory=dict)

    def check(self) -> None:
        if (self.input is None) == (not self.messages):
            raise RequestError("Give either input or messages.", "input")
        check_messages(self.messages)


class VectorRequest(InputRequest):
    """What is answered in vectors."""

    dimensions: int | None = Field(None, ge=1, lt=2**31, description="Length of a vector, where the model's can be cut.")
    encoding_format: Literal["float", "base64"] = Field("float", description="base64: of the numbers' bytes.")
    embed_dtype: Literal["float32", "float16", "bfloat16"] = Field("float32", description="Of the numbers in base64.")
    endianness: Literal["native", "little", "big"] = Field("native", description="Of the numbers in base64; native: little.")

    def check(self) -> None:
        super().check()
        if self.encoding_format == "float" and (self.embed_dtype != "float32" or self.endianness != "native"):
            name = "embed_dtype" if self.embed_dtype != "float32" else "endianness"
            raise RequestError(f"{name} is about base64: set encoding_format to base64, or leave {name} out.", name)


class EmbeddingRequest(VectorRequest):
    OPERATION = "embeddings"
    model_config = shown_with({"input": ["The capital of France is Paris.", "Rain is expected."]})


class PoolingRequest(VectorRequest):
    OPERATION = "pooling"
    model_config = shown_with({"input": "The capital of France is Paris.", "task": "token_embed"})

    task: PoolingTask | None = Field(None, description="Default: embed for a model of vectors, else classify.")


class ClassifyRequest(InputRequest):
    OPERATION = "classify"
    model_config = shown_with({"input": ["What a wonderful film!"]})


class ScoreRequest(PoolingFields):
    """One text against several, or as many against as many; under any of the names in use."""

    OPERATION = "score"
    model_config = shown_with({"text_1": "What is the capital of France?", "text_2": ["Paris is.", "It may rain."]})

    text_1: Texts | None = None
    text_2: Texts | None = None
    queries: Texts | None = Field(None, description="As text_1.")
    documents: Texts | None = Field(None, description="As text_2.")
    items: Texts | None = Field(None, description="As text_2, beside queries.")
    data_1: Texts | None = Field(None, description="As text_1.")
    data_2: Texts | None = Field(None, description="As text_2.")
    max_tokens_per_doc: int | None = Field(None, ge=1, lt=2**31, description="Cut the second text of each pair to so many tokens first.")

    REFUSED: ClassVar[dict[str, tuple[Any, ...]]] = PoolingFields.REFUSED | {"chat_template": (), "chat_template_kwargs": ()}

    @property
    def names(self) -> tuple[str, str]:
        """Of the fields in use. The request must have passed ``check``."""
        return next(names for names in _PAIRS if all(getattr(self, name) is not None for name in names))

    @property
    def pairs(self) -> tuple[list[str], list[str]]:
        """Of equal length. The request must have passed ``check``."""
        firsts, seconds = (getattr(self, name) for name in self.names)
        return (firsts * len(seconds) if len(firsts) == 1 else firsts), seconds

    def check(self) -> None:
        given = {name for names in _PAIRS for name in names if getattr(self, name) is not None}
        if given not in [set(names) for names in _PAIRS]:
            raise RequestError(f"Give one of these pairs: {'; '.join(' and '.join(names) for names in _PAIRS)}.", "text_1")
        firsts, seconds = self.pairs
        if len(firsts) != len(seconds):
            raise RequestError(
                f"There are {len(firsts)} first texts and {len(seconds)} second ones: give one first, or as many.", self.names[0]
            )


_PAIRS = (("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2"))


class RerankRequest(PoolingFields):
    OPERATION = "rerank"
    model_config = shown_with({"query": "What is the capital of France?", "documents": ["It may rain.", "Paris is."], "top_n": 1})

    query: Annotated[str, StringConstraints(min_length=1)]
    documents: Texts
    top_n: int = Field(0, ge=0, lt=2**31, description="How many of the best to answer; 0: all.")
    return_documents: bool = True
    max_tokens_per_doc: int | None = Field(None, ge=1, lt=2**31, description="Cut each document to so many tokens first.")

    REFUSED: ClassVar[dict[str, tuple[Any, ...]]] = PoolingFields.REFUSED | {
        "chat_template": (),
        "chat_template_kwargs": (),
        "rank_fields": (),
        "max_chunks_per_doc": (),
    }
