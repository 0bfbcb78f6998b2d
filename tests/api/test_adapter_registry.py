"""The registry alone: callers that leave in the middle, and the adapters of the start."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from fake_engine import FakeEngine
from tiny_tokenizers import byte_level_tokenizer

from headway.server.api.adapters import AdapterRegistry
from headway.server.config.lora import LoraConfig
from headway.server.errors import AdapterNotFound, ConfigError


def directory(root: Path, name: str) -> str:
    path = root / name
    path.mkdir()
    (path / "adapter_config.json").write_text("{}")
    return str(path)


def run(root: Path, work: Callable[[FakeEngine, AdapterRegistry], Awaitable[None]], **options: object) -> None:
    async def main() -> None:
        lora = LoraConfig.model_validate({"enable_lora": True, "max_loras": 1, "lora_allowed_prefixes": [str(root)], **options})
        engine = FakeEngine(byte_level_tokenizer())
        await work(engine, AdapterRegistry(lora, engine, ["tiny"]))

    asyncio.run(main())


def test_a_cancelled_registration_is_finished(tmp_path: Path) -> None:
    async def work(engine: FakeEngine, adapters: AdapterRegistry) -> None:
        engine.adapter_gate.clear()
        leaving = asyncio.create_task(adapters.register("a", directory(tmp_path, "a"), preload=True, pin=False))
        while not adapters._lock.locked():
            await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        engine.adapter_gate.set()
        await adapters.unregister("a")
        assert engine.adapter_log == ["+a", "-a"], "the engine and the registry know of the same adapters"

    run(tmp_path, work)


def test_a_request_for_an_adapter_gets_what_its_name_means_by_then(tmp_path: Path) -> None:
    async def work(engine: FakeEngine, adapters: AdapterRegistry) -> None:
        await adapters.register("a", directory(tmp_path, "a"), preload=False, pin=False)
        old = adapters.get("a")
        await adapters.update("a", src=directory(tmp_path, "b"), preload=False, pin=None)
        new = adapters.acquire(old)
        assert new is adapters.get("a")
        assert (new.ref.path.endswith("/b"), new.num_users, old.num_users) == (True, 1, 0)
        await adapters.unregister("a")
        assert engine.adapter_log == ["+a", "+a", "-a"], "the old one has no user, the new one has"
        adapters.release(new)
        while len(engine.adapter_log) < 4:
            await asyncio.sleep(0)
        with pytest.raises(AdapterNotFound, match="none is"):
            adapters.acquire(old)

    run(tmp_path, work)


def test_thousands_are_registered_by_name_alone(tmp_path: Path) -> None:
    async def work(engine: FakeEngine, adapters: AdapterRegistry) -> None:
        src = directory(tmp_path, "a")
        engine.adapter_gate.clear()  # nothing is read
        started = time.perf_counter()
        for i in range(5000):
            await adapters.register(f"a{i}", src, preload=False, pin=False)
        print(f"5,000 registrations in {time.perf_counter() - started:.2f} s")
        assert len(engine.adapters) == len(adapters.all()) == 5000
        assert adapters.acquire(adapters.get("a4999")).num_users == 1

    run(tmp_path, work)


def test_adapters_of_the_start_may_lie_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = directory(tmp_path, "a")
    monkeypatch.chdir(tmp_path)

    async def work(engine: FakeEngine, adapters: AdapterRegistry) -> None:
        await adapters.load_modules()
        assert [(adapter.name, adapter.src, adapter.ref.path) for adapter in adapters.all()] == [("x", "a", path)]
        assert engine.adapter_log == ["+x"]

    run(tmp_path, work, lora_modules=["x=a"], lora_allowed_prefixes=["/elsewhere"])


@pytest.mark.parametrize(
    ("modules", "word"),
    [
        (["x=/nowhere"], "x: There is no adapter in '/nowhere'"),
        (["tiny=a"], "the name of the model itself"),
        (["a b=a"], "must begin with a letter"),
    ],
)
def test_an_adapter_of_the_start_that_cannot_be_loaded_ends_it(tmp_path: Path, modules: list[str], word: str) -> None:
    directory(tmp_path, "a")

    async def work(engine: FakeEngine, adapters: AdapterRegistry) -> None:
        with pytest.raises(ConfigError, match=word):
            await adapters.load_modules()

    run(tmp_path, work, lora_modules=modules)
