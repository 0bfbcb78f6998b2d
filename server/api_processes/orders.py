"""What the leader tells the other API processes, beside what siblings/orders.py has for all."""

from __future__ import annotations

import msgspec

from headway.server.siblings.orders import BeginDrain, End
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


Order = Preparing | FilesFound | EngineEnded | BeginDrain | End
