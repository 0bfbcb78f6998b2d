"""At which places a streamed answer is cut into PayloadParts: clients must not take them for lines or events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from headway.container.local.faults import Faults


@dataclass(frozen=True, slots=True)
class PartForm:
    """``split``: parts of at most so many bytes. ``coalesce_s``: what arrives so shortly after another piece joins it."""

    split: int | None = None
    coalesce_s: float = 0.0


class Source(Protocol):
    """aiohttp's StreamReader."""

    async def readany(self) -> bytes:
        """What is there, after waiting for some; empty at the end."""
        ...

    def read_nowait(self, n: int = -1) -> bytes: ...


async def parts_of(source: Source, form: PartForm, faults: Faults) -> AsyncIterator[bytes]:
    """Raises what ``source`` raises, behind the parts that came before."""
    cuts = faults.splits()
    while part := await source.readany():
        if form.coalesce_s:
            await asyncio.sleep(form.coalesce_s)
            part += source.read_nowait()
        size = form.split or len(part)
        for piece in (part[start : start + size] for start in range(0, len(part), size)):
            for end in faults.cut(piece) if cuts else (piece,):
                yield end
