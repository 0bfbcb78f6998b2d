"""What the two sides of a KV connector tell each other: orders from the scheduler's, reports from the workers'. Plain data."""

from __future__ import annotations

import msgspec

from headway.server.types import KVSource


class Offer(msgspec.Struct, tag=True, frozen=True):
    """These blocks hold the KV of a prompt with this ``digest``, in its order. Whoever knows ``token`` may read them, once.

    Unless it ``is_whole`` the prompt is being computed, and ``MoreOffered`` follow.
    """

    token: str
    digest: bytes
    block_ids: list[int]
    is_whole: bool = True


class MoreOffered(msgspec.Struct, tag=True, frozen=True):
    """The next blocks of the offer's prompt are computed; with the last of them it ``is_whole``."""

    token: str
    block_ids: list[int]
    is_whole: bool


class Computing(msgspec.Struct, tag=True, frozen=True):
    """The plan behind this order computes these blocks of the offer's prompt, of which the first is number ``first``: layer by layer."""

    token: str
    first: int
    block_ids: list[int]


class Withdraw(msgspec.Struct, tag=True, frozen=True):
    """The offer's blocks are given to others from the next step on: nobody may read them any more."""

    token: str


class Fetch(msgspec.Struct, tag=True, frozen=True):
    """Fill ``block_ids`` with the source's blocks from its ``first_block`` on, then tell the source that it may let go of all of them.

    Without blocks there is only that to tell.
    """

    fetch_id: int
    source: KVSource
    digest: bytes
    first_block: int
    block_ids: list[int]


class SavedBlock(msgspec.Struct, frozen=True):
    """A block by its content's hash. ``slot``: where it is put in the host's memory; ``is_filed``: whether it becomes a file."""

    block_id: int
    block_hash: bytes
    slot: int | None
    is_filed: bool


class Save(msgspec.Struct, tag=True, frozen=True):
    """Copy these blocks out, at most ``MAX_SAVED_BLOCKS``."""

    save_id: int
    blocks: list[SavedBlock]


class LoadedBlock(msgspec.Struct, frozen=True):
    """``slot``: where it is in the host's memory; None: in a file."""

    block_id: int
    block_hash: bytes
    slot: int | None


class Load(msgspec.Struct, tag=True, frozen=True):
    """Fill these blocks with what was saved."""

    load_id: int
    blocks: list[LoadedBlock]


class Discard(msgspec.Struct, tag=True, frozen=True):
    """Remove the files of these blocks."""

    block_hashes: list[bytes]


MAX_SAVED_BLOCKS = 16  # in one order: what a load may have to wait for
Told = Offer | MoreOffered | Withdraw  # what others may read
Order = Told | Computing | Fetch | Save | Load | Discard


class Claimed(msgspec.Struct, tag=True, frozen=True):
    """An offer has its reader on this rank: from now on its connection says how long it is needed."""

    token: str


class Sent(msgspec.Struct, tag=True, frozen=True):
    """The offer's blocks are needed no more on this rank. ``is_lost``: whoever read them is gone, and no rank needs to wait for it."""

    token: str
    is_lost: bool = False


class Fetched(msgspec.Struct, tag=True, frozen=True):
    """``error``: why the blocks are not filled on this rank, in one sentence. ``is_settled``: nothing writes them any more; if not, a
    ``Settled`` follows. The seconds and counts are of the transfer itself."""

    fetch_id: int
    error: str | None = None
    is_settled: bool = True
    num_bytes: int = 0
    num_descriptors: int = 0
    post_s: float = 0.0
    transfer_s: float = 0.0


class Settled(msgspec.Struct, tag=True, frozen=True):
    """Nothing writes the blocks of a fetch that had failed."""

    fetch_id: int


class Found(msgspec.Struct, tag=True, frozen=True):
    """Files from before the start, on this rank; the least recently used one first."""

    block_hashes: list[bytes]


class Copied(msgspec.Struct, tag=True, frozen=True):
    """The blocks of a save are needed no more on this rank, whatever became of it."""

    save_id: int


class Saved(msgspec.Struct, tag=True, frozen=True):
    """After ``Copied``. What is kept of it on this rank: the copies in the host's memory, the files."""

    save_id: int
    is_copied: bool
    is_filed: bool
    num_bytes: int
    seconds: float


class Loaded(msgspec.Struct, tag=True, frozen=True):
    """``error``: why the blocks are not filled on this rank, in one sentence. ``lost``: which are of no use any more."""

    load_id: int
    error: str | None
    lost: list[bytes]
    num_bytes: int
    seconds: float


Report = Claimed | Sent | Fetched | Settled | Found | Copied | Saved | Loaded
