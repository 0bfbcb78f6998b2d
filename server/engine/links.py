"""The sockets between an engine process and the API processes, its clients: a pair for each, in the server's private directory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import zmq

from headway.server.engine.messages import AddPoolRequests, AddRequest, FromEngine, StepOutput, ToEngine, decode_to_engine, encode
from headway.server.types import TokenDelta

IDLE_POLL_MS = 1000


@dataclass(frozen=True, slots=True)
class LinkAddresses:
    """The ipc addresses that an API process binds and an engine connects to."""

    inbox: str  # to the engine
    outbox: str  # from it

    @classmethod
    def of(cls, directory: Path, engine: int, client: int) -> LinkAddresses:
        """By the indices of both. No name is longer than private_directory.py reckons with."""
        return cls(f"ipc://{directory}/in-{engine}-{client}", f"ipc://{directory}/out-{engine}-{client}")


class ApiClient:
    """An API process as the engine sees it: its sockets, and which requests are its own."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], addresses: LinkAddresses) -> None:
        self.request_ids: set[str] = set()
        self.num_received = 0  # requests, since it began
        self.is_gone = False
        self.inbox = _connected(context.socket(zmq.PULL), addresses.inbox)
        self._outbox = _connected(context.socket(zmq.PUSH), addresses.outbox)

    def send(self, message: FromEngine) -> None:
        if not self.is_gone:  # else nobody waits for the answer to its call
            self._outbox.send(encode(message), copy=False)

    def take(self) -> Iterator[ToEngine]:
        """What has arrived, until nothing more is there."""
        while True:
            try:
                yield decode_to_engine(self.inbox.recv(zmq.NOBLOCK))
            except zmq.Again:
                return

    def close(self, linger_ms: int) -> None:
        self.is_gone = True
        self.inbox.close(0)
        self._outbox.close(linger_ms)


class EngineLinks:
    """The ends of all sockets of engine ``index``. It knows whose each open request is, and sends everyone their own."""

    def __init__(self, directory: Path, index: int, num_clients: int) -> None:
        self._directory = directory
        self._index = index
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._poller = zmq.Poller()
        self._clients: dict[int, ApiClient] = {}
        self._owners: dict[str, ApiClient] = {}  # by open request
        for client in range(num_clients):
            self.add(client)

    def add(self, index: int) -> ApiClient:
        """API process ``index``, which may not listen yet: what is sent waits for it."""
        client = self._clients[index] = ApiClient(self._context, LinkAddresses.of(self._directory, self._index, index))
        self._poller.register(client.inbox, zmq.POLLIN)
        return client

    def drop(self, index: int) -> list[str]:
        """Forgets a process that has ended, with what it had sent; returns its open requests, which the caller aborts."""
        client = self._clients.pop(index)
        self._poller.unregister(client.inbox)
        client.close(linger_ms=0)
        for request_id in client.request_ids:
            del self._owners[request_id]
        return sorted(client.request_ids)

    def receive(self, wait: bool, at_most_ms: int = IDLE_POLL_MS) -> Iterator[tuple[ApiClient, ToEngine]]:
        """All messages that are there and who sent each; with ``wait`` sleeps for the first one, up to ``at_most_ms``."""
        if wait and not self._poller.poll(at_most_ms):
            return
        arrived = [(client, message) for client in self._clients.values() for message in client.take()]
        for client, message in arrived:
            if client.is_gone:
                continue  # a message before this one said so
            for request_id in _ids_of(message):
                client.request_ids.add(request_id)
                self._owners[request_id] = client
                client.num_received += 1
            yield client, message

    def send_step(self, output: StepOutput) -> None:
        """Everyone's own deltas, the statistics, and how many requests of their own are in them."""
        deltas: dict[ApiClient, list[TokenDelta]] = {client: [] for client in self._clients.values()}
        for delta in output.deltas:
            owner = self._owners.get(delta.request_id)
            if owner is None:
                continue  # its process has ended
            deltas[owner].append(delta)
            if delta.finish_reason is not None:
                del self._owners[delta.request_id]
                owner.request_ids.remove(delta.request_id)
        for client in self._clients.values():
            client.send(msgspec.structs.replace(output, deltas=deltas[client], num_received=client.num_received))

    def send_to_all(self, message: FromEngine) -> None:
        for client in self._clients.values():
            client.send(message)

    def close(self, linger_ms: int = 2000) -> None:
        """Last words get ``linger_ms`` to leave."""
        for client in self._clients.values():
            client.close(linger_ms)
        self._context.term()


def _ids_of(message: ToEngine) -> list[str]:
    """Of the requests that a message brings."""
    match message:
        case AddRequest(request=request):
            return [request.request_id]
        case AddPoolRequests(requests=requests):
            return [request.request_id for request in requests]
    return []


def _connected(end: zmq.Socket[bytes], address: str) -> zmq.Socket[bytes]:
    end.setsockopt(zmq.RCVHWM, 0)
    end.setsockopt(zmq.SNDHWM, 0)
    end.connect(address)
    return end
