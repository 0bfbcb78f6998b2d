"""What scripts written for vLLM find as ``request.app.state.engine_client``: its health, which is what their /ping asks for."""

from __future__ import annotations

from typing import Any

from headway.server.api.deps import AppState
from headway.server.api.health import health_of


class EngineClientForScripts:
    def __init__(self, state: AppState) -> None:
        self._state = state

    async def check_health(self) -> None:
        """Raises RuntimeError, with the reason, while the engine can't serve."""
        health = health_of(self._state)
        if not health.is_healthy:
            raise RuntimeError(health.reason)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"Headway's engine_client has no {name}: call this server's own handler, handler_registry.get_framework_default('invoke')"
        )
