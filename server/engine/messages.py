"""What travels between the API process and an engine process; nothing else serialises.

msgspec tagged structs in MessagePack, one message a ZeroMQ frame, over two ipc sockets (PUSH/PULL) for each API process.
"""

from __future__ import annotations

import msgspec

from headway.server.types import AdapterRef, EngineInfo, EngineStats, GenerateRequest, TokenDelta


class AddRequest(msgspec.Struct, tag=True, frozen=True):
    request: GenerateRequest


class AbortRequests(msgspec.Struct, tag=True, frozen=True):
    request_ids: list[str]


class ResetPrefixCache(msgspec.Struct, tag=True, frozen=True):
    pass


class LoadAdapter(msgspec.Struct, tag=True, frozen=True):
    """Answered by an AdapterDone with the same ``call_id``."""

    call_id: int
    adapter: AdapterRef


class UnloadAdapter(msgspec.Struct, tag=True, frozen=True):
    """Answered by an AdapterDone with the same ``call_id``."""

    call_id: int
    adapter_id: int


class DropClient(msgspec.Struct, tag=True, frozen=True):
    """The leader's: API process ``index`` has ended; abort its requests."""

    index: int


class AddClient(msgspec.Struct, tag=True, frozen=True):
    """The leader's: another API process takes the place of one that was dropped. It gets a Ready."""

    index: int


class Stop(msgspec.Struct, tag=True, frozen=True):
    """Finish the step under way, abort what is open, exit 0."""


ToEngine = AddRequest | AbortRequests | ResetPrefixCache | LoadAdapter | UnloadAdapter | DropClient | AddClient | Stop


class Phase(msgspec.Struct, tag=True, frozen=True):
    """Start-up progress: what the engine is doing since ``since``, in seconds of time.monotonic()."""

    name: str
    since: float


class Ready(msgspec.Struct, tag=True, frozen=True):
    info: EngineInfo
    since: float


class StepOutput(msgspec.Struct, tag=True):
    deltas: list[TokenDelta]
    stats: EngineStats


class AdapterDone(msgspec.Struct, tag=True, frozen=True):
    """``refusal``: why nothing was changed, in one sentence; None: done."""

    call_id: int
    refusal: str | None = None


class Died(msgspec.Struct, tag=True, frozen=True):
    """The engine's last words: ``cause`` in one sentence, for /ping, the last log line and every open stream."""

    cause: str
    is_user_error: bool = False  # a wrong option or model: exit status 2 and no traceback


FromEngine = Phase | Ready | StepOutput | AdapterDone | Died

_to_decoder: msgspec.msgpack.Decoder[ToEngine] = msgspec.msgpack.Decoder(ToEngine)
_from_decoder: msgspec.msgpack.Decoder[FromEngine] = msgspec.msgpack.Decoder(FromEngine)
_encoder = msgspec.msgpack.Encoder()


def encode(message: ToEngine | FromEngine) -> bytes:
    return _encoder.encode(message)


def decode_to_engine(data: bytes) -> ToEngine:
    return _to_decoder.decode(data)


def decode_from_engine(data: bytes) -> FromEngine:
    return _from_decoder.decode(data)
