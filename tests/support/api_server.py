"""The real application under a real uvicorn on a loopback port, over a FakeEngine: for tests of the API room."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import anthropic
import httpx
import openai
import uvloop
from fake_engine import FakeEngine
from tiny_tokenizers import byte_level_tokenizer

from headway.server.api.adapters import AdapterRegistry
from headway.server.api.app import create_app
from headway.server.api.deps import Drain, Served
from headway.server.api.http_server import HttpServer, close_after_answers
from headway.server.api.sagemaker.custom.loading import load_custom_handlers
from headway.server.api.tls.server_tls import ServerTls
from headway.server.api.traces import make_tracing
from headway.server.config.server import ServerConfig
from headway.server.counts import Counts
from headway.server.listen import bind_unix
from headway.server.text.chat_template import ChatTemplate
from headway.server.text.generation import GenerationDefaults
from headway.server.types import PoolingInfo

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if not loop.last %}|{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}|<assistant>{% endif %}"
)


class _Server(HttpServer):
    """uvicorn, told to end instead of looking every 0.1 s whether it shall: there are hundreds of servers in a test run."""

    async def main_loop(self) -> None:
        self._over = asyncio.Event()
        await self._over.wait()

    def end(self) -> None:
        self._over.set()


class ApiServer:
    """A context manager. ``engine``, ``served`` and ``drain`` are there to be changed; ``on_loop`` runs code on the server's loop.

    ``pooling``: what the model does in the place of generating.
    """

    def __init__(
        self,
        *,
        is_ready: bool = True,
        defaults: GenerationDefaults | None = None,
        verify: ssl.SSLContext | bool = True,
        phases: Mapping[str, float] | None = None,
        engine: FakeEngine | None = None,
        template: str = TEMPLATE,
        max_model_len: int = 256,
        pooling: PoolingInfo | None = None,
        **options: dict[str, Any],
    ) -> None:
        self.config = ServerConfig.model_validate({"model": {"model": "tiny"}, **options})
        self.tokenizer = byte_level_tokenizer()
        self.engine = engine or FakeEngine(self.tokenizer, max_model_len=max_model_len, pooling=pooling)
        self.served = Served.of(self.config)
        chat_template = ChatTemplate(template, self.tokenizer.special_tokens, self.config.chat.chat_template_content_format)
        self.served.set_text(self.tokenizer, chat_template, defaults or GenerationDefaults())
        if is_ready:
            assert self.engine.info is not None
            self.served.set_ready(self.engine.info)
        self.counts = Counts.alone()
        self.drain = Drain(self.counts)
        self.adapters = AdapterRegistry(self.config.lora, self.engine, self.served.names)
        sagemaker = self.config.sagemaker
        custom = load_custom_handlers(sagemaker) if sagemaker.enable_custom_handlers else None
        tracing = make_tracing(self.config.tracing, {})
        self.app = create_app(self.config, self.engine, self.served, self.drain, self.adapters, custom, phases, tracing, counts=self.counts)
        uds = self.config.network.uds
        # Named TCP, so that asyncio turns Nagle's algorithm off: each answer on a used connection took 40 ms.
        self._socket = bind_unix(uds, None) if uds else socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        if not uds:
            self._socket.bind(("127.0.0.1", 0))
        self.port: int = 0 if uds else self._socket.getsockname()[1]
        self.url = f"{'https' if self.config.tls.is_on else 'http'}://{'localhost' if uds else f'127.0.0.1:{self.port}'}"
        self.tls = ServerTls(self.config.tls) if self.config.tls.is_on else None
        self._server = _Server(self.app, self.config, self.tls)
        self._thread = threading.Thread(target=self._run)
        self._clients = ExitStack()  # what is left to the garbage collector warns in whichever test runs then
        self.client = httpx.Client(base_url=self.url, timeout=60, transport=httpx.HTTPTransport(uds=uds, verify=verify))

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._server.serve(sockets=[self._socket])
        # uvicorn leaves behind what was not read to its end, or accepted in its last moment: closed here, while there is a loop.
        for _ in range(5):
            for protocol in list(self.connections):
                protocol.transport.abort()
            await asyncio.sleep(0)

    def __enter__(self) -> ApiServer:
        self._thread.start()
        self.wait_for(lambda: self._server.started)
        return self

    def __exit__(self, *exc: object) -> None:
        self.client.close()
        self._clients.close()
        self.on_loop(self._server.end)
        self._thread.join(timeout=60)
        self._socket.close()
        assert not self._thread.is_alive()

    def on_loop(self, action: Callable[[], None]) -> None:
        self._loop.call_soon_threadsafe(action)

    def close_after_answers(self) -> None:
        """As the life cycle does when a drain begins."""
        close_after_answers(self._server)

    def num_tasks(self) -> int:
        """Of the server's loop."""
        return len(asyncio.all_tasks(self._loop))

    @property
    def connections(self) -> set[Any]:
        """uvicorn's protocols of the open connections."""
        return self._server.server_state.connections

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = 60) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come true in time"
            time.sleep(0.002)

    def openai(self, **options: Any) -> openai.OpenAI:
        client = openai.OpenAI(base_url=f"{self.url}/v1", max_retries=0, **{"api_key": "unused", **options})
        return self._clients.enter_context(client)

    def anthropic(self, **options: Any) -> anthropic.Anthropic:
        client = anthropic.Anthropic(base_url=self.url, max_retries=0, **{"api_key": "unused", **options})
        return self._clients.enter_context(client)

    def leave(self, path: str, body: Any, when: Callable[[], bool]) -> None:
        """Asks, and is gone without an answer once ``when`` holds."""
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as raw:
            raw.sendall(head.encode() + content)
            self.wait_for(when)

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        return self.client.post(path, json=body, **options)
