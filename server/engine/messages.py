"""What travels between the API process and an engine process; nothing else serialises.

msgspec tagged structs in MessagePack, one message a ZeroMQ frame, over two ipc sockets (PUSH/PULL) for each API process.
"""

from __future__ import annotations

import msgspec

from headway.server.types import (
    AdapterRef,
    EngineInfo,
    EngineStats,
    GenerateRequest,
    PoolRequest,
    SleepMode,
    SleepPart,
    SleepState,
    TokenDelta,
)


class AddRequest(msgspec.Struct, tag=True, frozen=True):
    request: GenerateRequest


class AddPoolRequests(msgspec.Struct, tag=True, frozen=True):
    """Those of one API request: often hundreds of short texts."""

    requests: list[PoolRequest]


class AbortRequests(msgspec.Struct, tag=True, frozen=True):
    request_ids: list[str]


# Each of the following is a call: answered by a CallDone with the same ``call_id``.


class AddAdapter(msgspec.Struct, tag=True, frozen=True):
    """``preload``: answered once it has been read."""

    call_id: int
    adapter: AdapterRef
    preload: bool
    is_pinned: bool


class PinAdapter(msgspec.Struct, tag=True, frozen=True):
    """``preload``: as of AddAdapter."""

    call_id: int
    adapter_id: int
    preload: bool
    is_pinned: bool


class RemoveAdapter(msgspec.Struct, tag=True, frozen=True):
    call_id: int
    adapter_id: int


class ResetPrefixCache(msgspec.Struct, tag=True, frozen=True):
    """``is_complete`` of the answer: whether no open request still holds a block of before."""

    call_id: int
    preempt_running: bool


class Sleep(msgspec.Struct, tag=True, frozen=True):
    """Answered once the engine sleeps; with mode wait that is when what is open has ended."""

    call_id: int
    level: int
    mode: SleepMode


class WakeUp(msgspec.Struct, tag=True, frozen=True):
    """``parts``: what to wake; None: everything."""

    call_id: int
    parts: list[SleepPart] | None


class DropClient(msgspec.Struct, tag=True, frozen=True):
    """The leader's: API process ``index`` has ended; abort its requests."""

    index: int


class AddClient(msgspec.Struct, tag=True, frozen=True):
    """The leader's: another API process takes the place of one that was dropped. It gets a Ready."""

    index: int


class Stop(msgspec.Struct, tag=True, frozen=True):
    """Finish the step under way, abort what is open, exit 0."""


ToEngine = (
    AddRequest
    | AddPoolRequests
    | AbortRequests
    | AddAdapter
    | PinAdapter
    | RemoveAdapter
    | ResetPrefixCache
    | Sleep
    | WakeUp
    | DropClient
    | AddClient
    | Stop
)


class Phase(msgspec.Struct, tag=True, frozen=True):
    """Start-up progress: what the engine is doing since ``since``, in seconds of time.monotonic()."""

    name: str
    since: float


class Ready(msgspec.Struct, tag=True, frozen=True):
    info: EngineInfo
    since: float


class StepOutput(msgspec.Struct, tag=True):
    """``num_received``: requests that the engine had from this API process by then, since the process began. Filled by EngineLinks."""

    deltas: list[TokenDelta]
    stats: EngineStats
    num_received: int = 0


class CallDone(msgspec.Struct, tag=True, frozen=True):
    """``refusal``: why it was not done, in one sentence; None: done. ``has_failed``: it was tried, and the call is not to blame."""

    call_id: int
    refusal: str | None = None
    has_failed: bool = False
    is_complete: bool = True


class SleepChanged(msgspec.Struct, tag=True, frozen=True):
    """For every API process, ahead of the answer to whoever asked for the change."""

    state: SleepState


class Died(msgspec.Struct, tag=True, frozen=True):
    """The engine's last words: ``cause`` in one sentence, for /ping, the last log line and every open stream."""

    cause: str
    is_user_error: bool = False  # a wrong option or model: exit status 2 and no traceback


FromEngine = Phase | Ready | StepOutput | CallDone | SleepChanged | Died

_to_decoder: msgspec.msgpack.Decoder[ToEngine] = msgspec.msgpack.Decoder(ToEngine)
_from_decoder: msgspec.msgpack.Decoder[FromEngine] = msgspec.msgpack.Decoder(FromEngine)
_encoder = msgspec.msgpack.Encoder()


def encode(message: ToEngine | FromEngine) -> bytes:
    return _encoder.encode(message)


def decode_to_engine(data: bytes) -> ToEngine:
    return _to_decoder.decode(data)


def decode_from_engine(data: bytes) -> FromEngine:
    return _from_decoder.decode(data)
