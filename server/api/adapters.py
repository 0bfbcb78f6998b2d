"""The adapters that this server knows, by name, and who uses them. The one owner of that."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Collection, Coroutine, Iterator, KeysView, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any, TypeVar

from headway.server.api.adapter_source import adapter_directory, allowed_directory
from headway.server.config.lora import LoraConfig, lora_module
from headway.server.engine.client import EngineClient
from headway.server.errors import AdapterExists, AdapterNotFound, AdaptersFull, ConfigError, EngineDead, EngineNotReady, RequestError
from headway.server.stats import AdapterStats
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
    pin: bool  # keeps its place on the device
    num_users: int = 0  # generations that are open with it
    is_retired: bool = False  # its name is gone, or another's: it lives on for its users

    @property
    def name(self) -> str:
        return self.ref.name


class AdapterRegistry:
    """Lives on one event loop. It knows names and paths; what of them is in memory, the engines know.

    Everything that changes a name goes through one lock, so nobody sees one half registered. Such work is not cut short when whoever
    asked for it leaves. A request takes no lock.
    """

    def __init__(self, lora: LoraConfig, engine: EngineClient, served_names: Sequence[str]) -> None:
        self.is_enabled = lora.enable_lora
        self.max_loras = lora.max_loras
        self._lora = lora
        self._engine = engine
        self._served_names = served_names
        self._adapters: dict[str, Adapter] = {}
        self._pinned: set[str] = set()  # names of these: each request asks how many there are
        self._by_id: dict[int, Adapter] = {}  # retired ones too
        self._ids = count(1)
        self._lock = asyncio.Lock()
        self._removals: set[asyncio.Task[None]] = set()

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
            except (RequestError, AdaptersFull) as refusal:
                raise ConfigError([f"--lora-modules {module.name}: {refusal}"]) from refusal

    async def register(self, name: str, src: str, *, preload: bool, pin: bool, param: str = "src") -> None:
        """Pinned adapters are loaded at once, others if ``preload`` says so, else with their first request.

        Raises RequestError (a bad name), AdapterExists, AdapterError, AdapterNotFound (nothing is there), AdaptersFull, EngineDead; then
        nothing has changed, but that an idle adapter may have lost its place in memory.
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
        """New requests no longer find it; open ones go on to their end. Raises AdapterNotFound."""
        await _whole(self._unregister(name))

    # Use

    def acquire(self, adapter: Adapter) -> Adapter:
        """Keeps it for a generation until ``release`` of what is returned: ``adapter``, or what its name means by now if that has changed.

        Raises AdapterNotFound, and AdaptersFull where it could never be placed.
        """
        if adapter.is_retired:
            adapter = self.get(adapter.name, "model")
        if not adapter.pin:
            self._check_place()
        adapter.num_users += 1
        return adapter

    def release(self, adapter: Adapter) -> None:
        """Once for each ``acquire``, after the streams of the requests have ended or been closed."""
        adapter.num_users -= 1
        if adapter.is_retired and not adapter.num_users:
            removal = asyncio.ensure_future(self._remove(adapter))
            self._removals.add(removal)
            removal.add_done_callback(self._removals.discard)

    def is_loaded(self, adapter: Adapter) -> bool:
        """Whether it is on the device of any engine."""
        return any(adapter.ref.id in stats.loaded for stats in self._stats())

    def running(self) -> set[str]:
        """Names of those that requests of an engine's scheduler have, retired ones too."""
        return {self._by_id[key].name for stats in self._stats() for key in stats.running if key in self._by_id}

    def waiting(self) -> set[str]:
        """Names of those that requests wait for: they are being read, or there is no place for them."""
        return {self._by_id[key].name for stats in self._stats() for key in stats.waiting if key in self._by_id}

    def _stats(self) -> Iterator[AdapterStats]:
        for engine in self._engine.engines:
            if engine.stats.adapters is not None:
                yield engine.stats.adapters

    # Under the lock

    async def _register(self, adapter: Adapter, *, preload: bool) -> None:
        async with self._lock:
            if adapter.name in self._adapters:
                raise AdapterExists(f"The adapter {adapter.name!r} is already registered; update or delete it.", "name")
            await self._add(adapter, preload)
            self._put(adapter)

    async def _update(self, name: str, directory: Path | None, src: str | None, *, preload: bool | None, pin: bool | None) -> None:
        async with self._lock:
            old = self.get(name)
            is_pinned = old.pin if pin is None else pin
            if directory is None or src is None:
                if is_pinned and not old.pin:
                    self._check_place()
                await self._engine.pin_adapter(old.ref.id, bool(preload or is_pinned), is_pinned)
                old.pin = is_pinned
                self._put(old)
                return
            new = self._new(name, directory, src, pin=is_pinned)
            await self._add(new, preload is not False, old)
            self._put(new)
            await self._retire(old)

    async def _unregister(self, name: str) -> None:
        async with self._lock:
            adapter = self.get(name)
            del self._adapters[name]
            self._pinned.discard(name)
            await self._retire(adapter)

    def _put(self, adapter: Adapter) -> None:
        """Under its name, in the place of what had it."""
        self._adapters[adapter.name] = adapter
        (self._pinned.add if adapter.pin else self._pinned.discard)(adapter.name)

    async def _add(self, adapter: Adapter, preload: bool, old: Adapter | None = None) -> None:
        """In the place of ``old``, whose pin does not count any more."""
        if adapter.pin or preload:
            self._check_place(old)
        if old is not None and old.pin:  # else both are, and there may be room for one
            await self._engine.pin_adapter(old.ref.id, False, False)
        try:
            await self._engine.add_adapter(adapter.ref, preload or adapter.pin, adapter.pin)
        except Exception:
            if old is not None and old.pin:
                await self._engine.pin_adapter(old.ref.id, True, True)
            raise
        self._by_id[adapter.ref.id] = adapter

    async def _retire(self, adapter: Adapter) -> None:
        adapter.is_retired = True
        if not adapter.num_users:
            await self._remove(adapter)
        elif adapter.pin:
            with suppress(EngineDead, EngineNotReady):  # it has none any more
                await self._engine.pin_adapter(adapter.ref.id, False, False)

    async def _remove(self, adapter: Adapter) -> None:
        del self._by_id[adapter.ref.id]
        try:
            await self._engine.remove_adapter(adapter.ref.id)
        except (EngineDead, EngineNotReady) as problem:  # it has none any more
            log.info("Adapter %s is gone with its engine: %s", adapter.name, problem)
        else:
            log.info("Adapter %s removed", adapter.name)

    def _num_pinned(self, but: Adapter | None) -> int:
        return len(self._pinned) - (but is not None and but.name in self._pinned)

    def _check_place(self, but: Adapter | None = None) -> None:
        """Raises AdaptersFull where the pinned ones leave no place that another one could ever have."""
        if self._num_pinned(but) >= self.max_loras:
            raise AdaptersFull(
                f"All {self.max_loras} places on the device (--max-loras) are pinned: delete an adapter, unpin one, or raise --max-loras."
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
