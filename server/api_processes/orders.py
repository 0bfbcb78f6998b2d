"""What the leader tells the other API processes: small typed messages, each process's over a ZeroMQ socket of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import zmq
import zmq.asyncio

from headway.server.source.files import ModelFiles


class Preparing(msgspec.Struct, tag=True, frozen=True):
    """What happens before the engine's process exists, for /ping."""

    phase: str


class FilesFound(msgspec.Struct, tag=True, frozen=True):
    """The model is on this machine: load its tokenizer."""

    files: ModelFiles


class EngineEnded(msgspec.Struct, tag=True, frozen=True):
    """``cause``: in one sentence."""

    cause: str


class BeginDrain(msgspec.Struct, tag=True, frozen=True):
    """Refuse new work, finish what is open."""


class End(msgspec.Struct, tag=True, frozen=True):
    """Exit with status 0 as soon as answers are flushed."""


Order = Preparing | FilesFound | EngineEnded | BeginDrain | End

_encoder = msgspec.msgpack.Encoder(enc_hook=str)  # paths
_decoder: msgspec.msgpack.Decoder[Order] = msgspec.msgpack.Decoder(Order, dec_hook=lambda kind, text: kind(text))


def _address(directory: Path, index: int) -> str:
    return f"ipc://{directory}/orders-{index}"


class OrderSender:
    """The leader's end towards API process ``index``; what is sent before that has begun waits for it. Never blocks."""

    def __init__(self, directory: Path, index: int) -> None:
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUSH)
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.connect(_address(directory, index))

    def send(self, order: Order) -> None:
        self._socket.send(_encoder.encode(order), zmq.NOBLOCK)

    def close(self) -> None:
        self._socket.close(0)


class OrderReceiver:
    """A follower's end, on its event loop."""

    def __init__(self, directory: Path, index: int) -> None:
        self._socket: Any = zmq.asyncio.Context.instance().socket(zmq.PULL)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.bind(_address(directory, index))

    async def receive(self) -> Order:
        return _decoder.decode(await self._socket.recv())

    def close(self) -> None:
        self._socket.close(0)
