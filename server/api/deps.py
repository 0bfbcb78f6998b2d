"""What the HTTP application is built from: plain objects that the composition root makes and hands to create_app."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from headway.server.api.adapters import Adapter, AdapterRegistry, listed
from headway.server.api.fingerprint import fingerprint_of
from headway.server.api.grammars import GrammarChecker
from headway.server.api.load import ServerLoad
from headway.server.api.request_record import RequestRecord
from headway.server.api.responses_store import ResponsesStore
from headway.server.config.chat import ChatConfig
from headway.server.config.responses import stores_responses
from headway.server.config.server import ServerConfig
from headway.server.config.structured import StructuredConfig
from headway.server.counts import Count, Counts
from headway.server.engine.client import EngineClient
from headway.server.errors import EngineDead, EngineNotReady, ModelNotFound, RequestError, ServerDraining
from headway.server.source.files import ModelFiles
from headway.server.types import EngineInfo
from headway.server.words import cut

if TYPE_CHECKING:
    from headway.server.api.metrics import Metrics
    from headway.server.api.tracing import Tracing
    from headway.server.text.chat_template import ChatTemplate
    from headway.server.text.generation import GenerationDefaults
    from headway.server.text.parsers import Parsers
    from headway.server.text.tokenizer import Tokenizer


Handler = Callable[[Request], Awaitable[Response]]


class Drain:
    """Whether the server is shutting down: it then finishes what is open and refuses what is new.

    ``num_held``: what must end before the exit beside the engine's open requests, in all API processes.
    """

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._begun = asyncio.Event()

    @property
    def is_draining(self) -> bool:
        return self._begun.is_set()

    @property
    def num_held(self) -> int:
        return self._counts.total(Count.HELD)

    def begin(self) -> None:
        self._begun.set()
        self._counts.set(Count.IS_DRAINING, 1)

    async def begun(self) -> None:
        """Returns once the drain has begun."""
        await self._begun.wait()

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Puts off the exit, up to --shutdown-timeout, for what then ends by itself."""
        self._counts.add(Count.HELD, 1)
        try:
            yield
        finally:
            self._counts.add(Count.HELD, -1)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """All that the handlers need to know about the model, once the engine is ready."""

    tokenizer: Tokenizer
    chat_template: ChatTemplate
    defaults: GenerationDefaults
    parsers: Parsers
    info: EngineInfo
    grammars: GrammarChecker


class Served:
    """The model as this process serves it: its names at once, its text tools after ``load``, the rest after ``set_ready``."""

    def __init__(self, names: list[str], chat: ChatConfig | None = None, structured: StructuredConfig | None = None) -> None:
        assert names, "a served model has a name"
        self.names = names
        self._chat = chat or ChatConfig()
        self._structured = structured or StructuredConfig()
        self._text: tuple[Tokenizer, ChatTemplate, GenerationDefaults, Parsers] | None = None
        self._model: ServedModel | None = None
        self._watchers: list[Callable[[EngineInfo], None]] = []

    @classmethod
    def of(cls, config: ServerConfig) -> Served:
        """Names from --served-model-name, else the model as the user named it."""
        return cls(list(config.model.served_model_name) or [config.model.model or "model"], config.chat, config.structured)

    @property
    def name(self) -> str:
        """The name that answers show."""
        return self.names[0]

    @property
    def model(self) -> ServedModel | None:
        """None before set_ready."""
        return self._model

    async def load(
        self, config: ServerConfig, files: ModelFiles, cache_dir: Path, on_progress: Callable[[str], None] | None = None
    ) -> None:
        """Reads tokenizer, chat template and generation defaults in a thread. Raises ModelSourceError, ConfigError."""
        tokenizer, template, defaults = await asyncio.to_thread(_load_text, config, files, cache_dir, on_progress)
        self.set_text(tokenizer, template, defaults)

    def set_text(self, tokenizer: Tokenizer, chat_template: ChatTemplate, defaults: GenerationDefaults) -> None:
        from headway.server.text.parsers import choose_parsers

        self._text = (tokenizer, chat_template, defaults, choose_parsers(self._chat, chat_template, tokenizer))

    def set_ready(self, info: EngineInfo) -> None:
        """To be called once the engine is ready and ``load`` is done: requests are taken from now on."""
        assert self._text is not None, "load comes before set_ready"
        grammars = GrammarChecker(self._text[0], info.vocab_size, self._structured)
        self._model = ServedModel(*self._text, info, grammars)
        watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            watcher(info)

    def when_ready(self, watcher: Callable[[EngineInfo], None]) -> None:
        """Calls ``watcher`` once, with what the engine is: in ``set_ready``, or now if that was before."""
        if self._model is None:
            self._watchers.append(watcher)
        else:
            watcher(self._model.info)

    def check_name(self, model: str | None, adapters: Collection[str]) -> None:
        """A missing or empty model means the one that is served. Raises ModelNotFound, with the names of ``adapters`` too."""
        if model and model not in self.names:
            known = ", ".join(map(repr, self.names)) + (f" and the adapters {listed(adapters)}" if adapters else "")
            raise ModelNotFound(f"The model {cut(model, 100)!r} does not exist here; this server has {known}.", "model")


@dataclass
class AppState:
    """One application's state; lives in ``app.state.headway``."""

    config: ServerConfig
    engine: EngineClient
    served: Served
    drain: Drain
    metrics: Metrics
    adapters: AdapterRegistry
    load: ServerLoad
    counts: Counts
    tracing: Tracing | None = None
    started_at: int = field(default_factory=lambda: int(time.time()))
    # Held while a batch's line is understood: one in a turn of the event loop. All that wait at once would hold up /ping for seconds.
    batch_turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        is_stored = stores_responses(self.config.responses, self.config.network.api_server_count)
        self.responses = ResponsesStore(self.config.responses, is_on=is_stored)
        # Make engine request ids unique over all API processes: a client may send the same X-Request-Id to two of them.
        self.sequence_numbers = itertools.count(self.counts.index, self.counts.num_processes)

    def ready_model(self) -> ServedModel:
        """The model, if new work is taken now. Raises ServerDraining, EngineDead, EngineNotReady."""
        if self.drain.is_draining:
            raise ServerDraining("The server is shutting down and takes no new requests; send this one elsewhere.")
        if self.engine.dead_cause is not None:
            raise EngineDead(self.engine.dead_cause)
        if self.served.model is None or self.engine.phase != "ready":
            raise EngineNotReady(self.engine.phase if self.engine.phase != "ready" else "loading the tokenizer")
        return self.served.model

    def generating_model(self) -> ServedModel:
        """The model, if it answers with text. Raises as ``ready_model`` does, and RequestError."""
        model = self.ready_model()
        if model.info.pooling is not None:
            does, where = ("scores", "/classify or /rerank") if model.info.pooling.labels else ("vectors", "/v1/embeddings")
            raise RequestError(
                f"The model {self.served.name!r} generates no text: it turns texts into {does}. Use {where}, or serve another one."
            )
        return model

    @cached_property
    def fingerprint(self) -> str | None:
        """`system_fingerprint`, for as long as the server runs. To be asked for once the model is ready."""
        assert self.served.model is not None
        return fingerprint_of(self.config, self.served.model.info)

    def adapter_of(self, model: str | None, adapter_name: str | None = None) -> Adapter | None:
        """The adapter called ``adapter_name``, where the request named one beside its body; else what its ``model`` names, None for the
        model itself. Raises ModelNotFound, and RequestError where adapters are off."""
        if adapter_name is not None:
            self.adapters.check_enabled()
            return self.adapters.get(adapter_name, None)
        adapter = self.adapters.find(model)
        if adapter is None and not self.config.model.skip_model_name_validation:
            self.served.check_name(model, self.adapters.names())
        return adapter

    def name_of(self, adapter: Adapter | None) -> str:
        """The model's name that answers show."""
        return self.served.name if adapter is None else adapter.name


def state_of(connection: HTTPConnection) -> AppState:
    state = connection.app.state.headway
    assert isinstance(state, AppState)
    return state


def request_id_of(connection: HTTPConnection) -> str:
    """The client's X-Request-Id, or the fresh one that the outermost middleware made."""
    return str(connection.scope["headway.request_id"])


def record_of(connection: HTTPConnection) -> RequestRecord:
    record = connection.scope["headway.record"]
    assert isinstance(record, RequestRecord)
    return record


def client_request_id_of(connection: HTTPConnection) -> str | None:
    """The client's own X-Request-Id, None if it sent none."""
    return request_id_of(connection) if connection.scope["headway.request_id_is_given"] else None


def _load_text(
    config: ServerConfig, files: ModelFiles, cache_dir: Path, on_progress: Callable[[str], None] | None
) -> tuple[Tokenizer, ChatTemplate, GenerationDefaults]:
    from headway.server.text.chat_template import ChatTemplate, read_chat_template
    from headway.server.text.generation import load_generation_defaults
    from headway.server.text.tokenizer import load_tokenizer

    model, chat = config.model, config.chat
    tokenizer = load_tokenizer(
        files,
        model.tokenizer_source,
        cache_dir,
        revision=model.tokenizer_revision,
        token=model.hf_token,
        download_dir=model.download_dir,
        on_progress=on_progress,
    )
    source = read_chat_template(chat.chat_template) if chat.chat_template else tokenizer.chat_templates
    template = ChatTemplate(source, tokenizer.special_tokens, chat.chat_template_content_format)
    return tokenizer, template, load_generation_defaults(files, model.generation_config, model.override_generation_config)
