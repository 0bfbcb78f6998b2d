"""Servers that actors of a Ray cluster stand for: each has its server's address as its name, and is there as long as it lives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from headway.server.errors import ConfigError
from headway.server.router.addresses import RAY, plain_url, url_problem
from headway.server.router.sources.changes import Changes

ASK_EVERY_S = 2.0


class RayActors:
    """See Addresses. ``namespace`` is the actors'. Raises ConfigError where Ray is not installed."""

    def __init__(self, namespace: str) -> None:
        try:
            import ray
        except ModuleNotFoundError:
            raise ConfigError([f"{RAY}://{namespace} needs Ray: pip install 'ray>=2.40'"]) from None
        self._ray = ray
        self._namespace = namespace

    async def run(self, tell: Callable[[list[str]], object]) -> None:
        """The cluster is that of this node, or of the variable RAY_ADDRESS, which Ray reads."""
        changes = Changes(f"{RAY}://{self._namespace}", tell)
        while True:
            try:
                changes.found(await asyncio.to_thread(self._ask))
            except Exception as problem:  # Ray's own, of many kinds: its cluster is not there, or has gone
                changes.failed(" ".join(str(problem).split()) or type(problem).__name__)
                await asyncio.to_thread(self._ray.shutdown)
            await asyncio.sleep(ASK_EVERY_S)

    def _ask(self) -> list[str]:
        if not self._ray.is_initialized():
            self._ray.init(address="auto", namespace=self._namespace, log_to_driver=False, configure_logging=False)
        names = [str(name) for name in self._ray.util.list_named_actors()]
        return [plain_url(name) for name in names if url_problem(name) is None]
