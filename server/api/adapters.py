"""The adapters that this server knows: registered by name, some of them in the engine's slots. The one owner of all that."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Collection, Coroutine, KeysView, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any, TypeVar

from headway.server.api.adapter_source import adapter_directory, allowed_directory
from headway.server.config.lora import LoraConfig, lora_module
from headway.server.engine.client import EngineClient
from headway.server.errors import AdapterExists, AdapterNotFound, AdaptersFull, ConfigError, QueueFull, RequestError
from headway.server.types import AdapterRef
from headway.server.words import cut

log = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+-]{0,255}")
_SHOWN = 20  # names listed in a message
_T = TypeVar("_T")


@dataclass(slots=True, eq=False)
class Adapter:
    """A registered adapter. Changed by the registry only."""

    ref: AdapterRef
    src: str  # as it was given
    pin: bool  # keeps its slot
    is_resident: bool = False  # in a slot of the engine
    num_users: int = 0  # generations that are open with it
    num_waiting: int = 0  # requests that wait for its slot
    is_retired: bool = False  # its name is gone, or another's: it lives on for its users

    @property
    def name(self) -> str:
        return self.ref.name


class AdapterRegistry:
    """Lives on one event loop.

    Everything that loads or frees a slot, or changes a name, goes through one lock: the engine does these one after the other anyhow,
    and so nobody sees a name half registered. Such work is not cut short when whoever asked for it leaves. A request for an adapter
    that is in its slot takes no lock.
    """

    def __init__(self, lora: LoraConfig, engine: EngineClient, served_names: Sequence[str]) -> None:
        self.is_enabled = lora.enable_lora
        self.max_resident = lora.max_loras
        self._lora = lora
        self._engine = engine
        self._served_names = served_names
        self._adapters: dict[str, Adapter] = {}
        self._resident: OrderedDict[int, Adapter] = OrderedDict()  # by id, the one idle longest first; retired ones too
        self._ids = count(1)
        self._lock = asyncio.Lock()

    # Look-ups

    def all(self) -> list[Adapter]:
        """In the order in which they were registered."""
        return list(self._adapters.values())

    def find(self, name: str | None) -> Adapter | None:
        return self._adapters.get(name) if name else None

    def names(self) -> KeysView[str]:
        return self._adapters.keys()

    def get(self, name: str, param: str | None = "name") -> Adapter:
        """Raises AdapterNotFound with what there is; ``param`` is the field that the name came in."""
        adapter = self._adapters.get(name)
        if adapter is None:
            raise AdapterNotFound(f"The adapter {_shown(name)} is not registered here; {self._list()}.", param)
        return adapter

    def check_enabled(self) -> None:
        """Raises RequestError where the server takes no adapters."""
        if not self.is_enabled:
            raise RequestError("This server takes no adapters; start it with --enable-lora.")

    # Changes

    async def load_modules(self) -> None:
        """Those of --lora-modules. Their paths are the operator's own, so any will do. Raises ConfigError."""
        for module in map(lora_module, self._lora.lora_modules):
            try:
                self._check_name(module.name)
                directory = await asyncio.to_thread(adapter_directory, Path(module.path).absolute(), "path")
                await self._register(self._new(module.name, directory, module.path, pin=False), preload=True)
            except (RequestError, AdaptersFull, QueueFull) as refusal:
                raise ConfigError([f"--lora-modules {module.name}: {refusal}"]) from refusal

    async def register(self, name: str, src: str, *, preload: bool, pin: bool, param: str = "src") -> None:
        """Pinned adapters are loaded at once, others if ``preload`` says so, else with their first request.

        Raises RequestError (a bad name), AdapterExists, AdapterError, AdapterNotFound (nothing is there), AdaptersFull, QueueFull,
        EngineDead; then nothing has changed, but that an idle adapter may have lost its slot.
        """
        self._check_name(name)
        directory = await asyncio.to_thread(allowed_directory, src, self._lora.lora_allowed_prefixes, param)
        await _whole(self._register(self._new(name, directory, src, pin=pin), preload=preload))

    async def update(self, name: str, *, src: str | None, preload: bool | None, pin: bool | None, param: str = "src") -> None:
        """With ``src`` the files are read anew, even if it is the old one; open requests end with the weights that they began with.

        Raises as ``register`` does.
        """
        self.get(name)
        directory = None
        if src is not None:
            directory = await asyncio.to_thread(allowed_directory, src, self._lora.lora_allowed_prefixes, param)
        await _whole(self._update(name, directory, src, preload=preload, pin=pin))

    async def unregister(self, name: str) -> None:
        """New requests no longer find it; open ones go on to their end, and its slot is free once they have. Raises AdapterNotFound."""
        await _whole(self._unregister(name))

    # Use

    async def acquire(self, adapter: Adapter) -> Adapter:
        """Gives it a slot if it has none, and keeps it there until ``release`` of what is returned.

        That is ``adapter``, or what its name means by now if it has lost its slot and been changed. Raises as ``register`` does.
        """
        while not adapter.is_resident:  # again where another one took the slot before this task's turn
            awaited = adapter
            awaited.num_waiting += 1
            try:
                adapter = await _whole(self._load_for_use(awaited))
            finally:
                awaited.num_waiting -= 1
        adapter.num_users += 1
        self._resident.move_to_end(adapter.ref.id)
        return adapter

    def release(self, adapter: Adapter) -> None:
        """Once for each ``acquire``, after the streams of the requests have ended or been closed."""
        adapter.num_users -= 1

    def in_use(self) -> set[str]:
        """Names of those with open generations, retired ones too."""
        return {adapter.name for adapter in self._resident.values() if adapter.num_users}

    def awaited(self) -> set[str]:
        """Names of those that requests wait for: they are being loaded, or another one is before them."""
        return {adapter.name for adapter in self._adapters.values() if adapter.num_waiting}

    # Under the lock

    async def _register(self, adapter: Adapter, *, preload: bool) -> None:
        async with self._lock:
            if adapter.name in self._adapters:
                raise AdapterExists(f"The adapter {adapter.name!r} is already registered; update or delete it.", "name")
            if preload or adapter.pin:
                await self._load(adapter)
            self._adapters[adapter.name] = adapter

    async def _update(self, name: str, directory: Path | None, src: str | None, *, preload: bool | None, pin: bool | None) -> None:
        async with self._lock:
            old = self.get(name)
            is_pinned = old.pin if pin is None else pin
            if directory is None or src is None:
                if (preload or is_pinned) and not old.is_resident:
                    await self._load(old)
                old.pin = is_pinned
                return
            new = self._new(name, directory, src, pin=is_pinned)
            if preload is not False or is_pinned:
                await self._load(new)
            self._adapters[name] = new
            await self._retire(old)

    async def _unregister(self, name: str) -> None:
        async with self._lock:
            adapter = self.get(name)
            del self._adapters[name]
            await self._retire(adapter)

    async def _load_for_use(self, adapter: Adapter) -> Adapter:
        async with self._lock:
            if adapter.is_retired:
                adapter = self.get(adapter.name, "model")
            if not adapter.is_resident:
                await self._load(adapter)
            return adapter

    async def _load(self, adapter: Adapter) -> None:
        if len(self._resident) >= self.max_resident:
            await self._unload(self._least_needed())
        started = time.monotonic()
        await self._engine.load_adapter(adapter.ref)
        adapter.is_resident = True
        self._resident[adapter.ref.id] = adapter
        taken = f"{len(self._resident)} of {self.max_resident} slots"
        log.info("Adapter %s loaded from %r in %.2f s (%s)", adapter.name, adapter.ref.path, time.monotonic() - started, taken)

    async def _retire(self, adapter: Adapter) -> None:
        adapter.is_retired = True
        if adapter.is_resident and not adapter.num_users:
            await self._unload(adapter)

    async def _unload(self, adapter: Adapter) -> None:
        # Before the engine is asked: a request that comes meanwhile must not count on the slot.
        adapter.is_resident = False
        del self._resident[adapter.ref.id]
        await self._engine.unload_adapter(adapter.ref.id)
        log.info("Adapter %s unloaded", adapter.name)

    def _least_needed(self) -> Adapter:
        """A resident one that may lose its slot: one whose name is gone, else the one idle longest. Raises QueueFull, AdaptersFull."""
        idle = [adapter for adapter in self._resident.values() if not adapter.num_users]
        for adapter in idle:
            if adapter.is_retired:
                return adapter
        for adapter in idle:
            if not adapter.pin:
                return adapter
        if any(not adapter.pin or adapter.is_retired for adapter in self._resident.values()):
            raise QueueFull(
                f"All {self.max_resident} adapters in memory (--max-loras) are in use or pinned: try again later.", 1, "max_loras"
            )
        raise AdaptersFull(
            f"All {self.max_resident} adapters in memory (--max-loras) are pinned: delete one, unpin one, or raise --max-loras."
        )

    # Helpers

    def _new(self, name: str, directory: Path, src: str, *, pin: bool) -> Adapter:
        return Adapter(AdapterRef(next(self._ids), name, str(directory)), src, pin)

    def _check_name(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise RequestError(
                f"The adapter's name must begin with a letter or a digit and go on with those and . _ : @ + - (256 at most), "
                f"got {_shown(name)}.",
                "name",
            )
        if name in self._served_names:
            raise RequestError(f"{name!r} is the name of the model itself; give the adapter another one.", "name")

    def _list(self) -> str:
        return f"these are: {listed(self.names())}" if self._adapters else "none is"


async def _whole(work: Coroutine[Any, Any, _T]) -> _T:
    """``work``'s result. It goes on to its end if the caller is cancelled: what the engine was told must be noted here."""
    return await asyncio.shield(asyncio.ensure_future(work))


def listed(names: Collection[str]) -> str:
    """The names, or the first of many, for a message."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(repr(name) for name in islice(names, _SHOWN)) + more


def _shown(name: str) -> str:
    return repr(cut(name, 100))
