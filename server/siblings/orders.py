"""What the leader of several processes tells the others: small typed messages, each process's over a ZeroMQ socket of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
import zmq
import zmq.asyncio

_Order = TypeVar("_Order")


class BeginDrain(msgspec.Struct, tag=True, frozen=True):
    """Refuse new work, finish what is open."""


class End(msgspec.Struct, tag=True, frozen=True):
    """Exit with status 0 as soon as answers are flushed."""


_encoder = msgspec.msgpack.Encoder(enc_hook=str)  # paths


def _address(directory: Path, index: int) -> str:
    return f"ipc://{directory}/orders-{index}"


class OrderSender:
    """The leader's end towards process ``index``; what is sent before that has begun waits for it. Never blocks."""

    def __init__(self, directory: Path, index: int) -> None:
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUSH)
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.connect(_address(directory, index))

    def send(self, order: msgspec.Struct) -> None:
        self._socket.send(_encoder.encode(order), zmq.NOBLOCK)

    def close(self) -> None:
        self._socket.close(0)


class OrderReceiver(Generic[_Order]):
    """The other end, on its event loop. ``kinds``: the union of the orders there are."""

    def __init__(self, directory: Path, index: int, kinds: Any) -> None:
        self._decoder: msgspec.msgpack.Decoder[_Order] = msgspec.msgpack.Decoder(kinds, dec_hook=lambda kind, text: kind(text))
        self._socket: Any = zmq.asyncio.Context.instance().socket(zmq.PULL)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.bind(_address(directory, index))

    async def receive(self) -> _Order:
        return self._decoder.decode(await self._socket.recv())

    def close(self) -> None:
        self._socket.close(0)
