"""What rank 0, which is the engine, and the other ranks say to each other: MessagePack through a link for each of them.

rank 0                      rank r
                            Here          torch is imported
Join                                      both join the group, load, and see how much room there is
                            Sized
Start                                     both make the runner and compute for the first time
                            Done
Move, Tell, ..              Moved         when there is something to report
Step, Step, ..              (no answer: what a step computes is exchanged by collectives)
ReadAdapter, DropAdapter    (no answer)
LoadAdapter, Sleep, ..      Done
Stop
                            Failed        at any time, as the last words
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from headway.server.config.parallel import ParallelConfig
from headway.server.config.plan import Plan
from headway.server.config.server import ServerConfig
from headway.server.distributed.layout import Layout
from headway.server.distributed.meeting import Meeting, NetworkMeeting
from headway.server.distributed.places import RankPlace
from headway.server.engine.batch import BatchPlan
from headway.server.engine.executor.secure_link import Credentials
from headway.server.engine.kv.shared_cache import SharedCache
from headway.server.engine.kv.transfer.orders import Order, Report, Told
from headway.server.source.files import ModelFiles
from headway.server.types import AdapterRef, SleepPart


@dataclass(frozen=True, slots=True)
class Seat:
    """Of a rank that is reached over the network. Filled by the engine, ``cache_dir`` on the rank's host."""

    meeting: NetworkMeeting
    engine: tuple[str, int]  # the address and port where it takes links
    credentials: Credentials
    gpu_index: int  # among those that the rank sees
    is_elsewhere: bool  # on another host than the engine, with model files of its own
    cache_dir: Path | None = None


@dataclass(frozen=True, slots=True)
class RankArguments:
    """What a rank is started with: handed over as multiprocessing or Ray do it. ``config`` has its secrets removed."""

    config: ServerConfig
    files: ModelFiles
    engine: int  # among those of the server
    rank: int
    directory: Path  # where the ranks of the engine meet if all are on its host
    seat: Seat | None = None  # None: it is reached through a pair of sockets

    @property
    def place(self) -> RankPlace:
        return place_of(self.config.parallel, self.rank)

    @property
    def meeting(self) -> Meeting:
        return self.directory if self.seat is None else self.seat.meeting

    @property
    def device_index(self) -> int:
        return self.config.parallel.gpu_index(self.engine, self.rank) if self.seat is None else self.seat.gpu_index

    @property
    def host_elsewhere(self) -> str | None:
        """The address of the rank's host, if that is another than the engine's."""
        return self.seat.meeting.own_address if self.seat is not None and self.seat.is_elsewhere else None

    @property
    def role(self) -> str:
        """The rank's name in the log."""
        name = f"{self.config.data_parallel.engine_name(self.engine)} rank {self.rank}"
        return name if self.seat is None else f"{name} on {self.seat.meeting.own_address}"


class Hello(msgspec.Struct, frozen=True):
    """The first message of a rank that reaches the engine over the network, before all others."""

    rank: int
    pid: int  # on its host


def place_of(parallel: ParallelConfig, rank: int) -> RankPlace:
    sizes = parallel.tensor_parallel_size, parallel.pipeline_parallel_size, parallel.prefill_context_parallel_size
    return RankPlace(rank, *sizes)


def layout_of(config: ServerConfig) -> Layout:
    parallel = config.parallel
    return Layout(
        parallel.decode_context_parallel_size,
        parallel.cp_kv_cache_interleave_size,
        config.compilation.shards_tokens,
        parallel.prefill_context_parallel_size,
    )


class Join(msgspec.Struct, tag=True, frozen=True):
    """``num_threads``: that a rank may compute with on a CPU."""

    plan: Plan
    vocab_size: int
    num_threads: int


class Start(msgspec.Struct, tag=True, frozen=True):
    cache: SharedCache
    max_model_len: int


class Step(msgspec.Struct, tag=True, frozen=True):
    plan: BatchPlan


class Move(msgspec.Struct, tag=True, frozen=True):
    """Pages of the KV cache, beside the steps: between those that it came between."""

    orders: list[Order]


class Tell(msgspec.Struct, tag=True, frozen=True):
    """What others may read of the KV cache: heard at once, in a step too, for they hear of it meanwhile and ask for it."""

    orders: list[Told]


class ReadAdapter(msgspec.Struct, tag=True, frozen=True):
    """Beside the steps; what is wrong with it is told when it is to be loaded."""

    adapter: AdapterRef


class DropAdapter(msgspec.Struct, tag=True, frozen=True):
    adapter_id: int


class LoadAdapter(msgspec.Struct, tag=True, frozen=True):
    adapter_id: int


class UnloadAdapter(msgspec.Struct, tag=True, frozen=True):
    adapter_id: int


class Sleep(msgspec.Struct, tag=True, frozen=True):
    level: int


class WakeUp(msgspec.Struct, tag=True, frozen=True):
    part: SleepPart


class Stop(msgspec.Struct, tag=True, frozen=True):
    pass


Change = LoadAdapter | UnloadAdapter | Sleep | WakeUp  # answered by a Done
ToRank = Join | Start | Step | Move | Tell | ReadAdapter | DropAdapter | LoadAdapter | UnloadAdapter | Sleep | WakeUp | Stop


class Here(msgspec.Struct, tag=True, frozen=True):
    pass


class Sized(msgspec.Struct, tag=True, frozen=True):
    """``num_blocks``: for which there is room on this rank, of ``block_bytes`` each."""

    num_blocks: int
    block_bytes: int


class Done(msgspec.Struct, tag=True, frozen=True):
    """``refusal``: why it was not done, and nothing has changed."""

    refusal: str | None = None


class Moved(msgspec.Struct, tag=True, frozen=True):
    reports: list[Report]


class Failed(msgspec.Struct, tag=True, frozen=True):
    """``is_user_error``: a wrong option or model. ``is_echo``: another rank was lost, whose end is the cause."""

    cause: str
    is_user_error: bool = False
    is_echo: bool = False


FromRank = Here | Sized | Done | Moved | Failed

_to_decoder: msgspec.msgpack.Decoder[ToRank] = msgspec.msgpack.Decoder(ToRank)
_from_decoder: msgspec.msgpack.Decoder[FromRank] = msgspec.msgpack.Decoder(FromRank)
_encoder = msgspec.msgpack.Encoder()


def encode(message: ToRank | FromRank) -> bytes:
    return _encoder.encode(message)


def decode_to_rank(data: bytes) -> ToRank:
    return _to_decoder.decode(data)


def decode_from_rank(data: bytes) -> FromRank:
    return _from_decoder.decode(data)
