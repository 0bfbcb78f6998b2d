"""Whether this server takes work, and why not: one judgement for /ping, /health and the routers in front."""

from __future__ import annotations

from dataclasses import dataclass

from headway.server.api.deps import AppState


@dataclass(frozen=True, slots=True)
class Health:
    """``status``: ok, sleeping, starting, draining, hung or dead. ``reason`` is one sentence, None where all is well."""

    status: str
    phase: str
    reason: str | None = None

    @property
    def is_healthy(self) -> bool:
        """A server that sleeps was told to: whoever restarts what is not healthy would undo that."""
        return self.status in ("ok", "sleeping")


def health_of(state: AppState) -> Health:
    """Reads flags only; costs microseconds, so that probes are answered under full load."""
    engine = state.engine
    if engine.dead_cause is not None:
        return Health("dead", engine.phase, f"The engine has stopped: {engine.dead_cause}")
    if state.drain.is_draining:
        return Health("draining", engine.phase, "The server is shutting down and takes no new requests.")
    if engine.phase != "ready":
        return Health("starting", engine.phase, f"The model is not ready yet: {engine.phase}.")
    if state.served.model is None:
        return Health("starting", "loading tokenizer", "The model is not ready yet: loading tokenizer.")
    if not state.counts.are_open:
        return Health("starting", engine.phase, "The other API processes are not ready yet.")
    sleep = engine.sleep_state
    if sleep.level is not None:
        what = "is asleep" if sleep.is_asleep else "finishes what is open before it sleeps"
        return Health("sleeping", engine.phase, f"The engine {what} at level {sleep.level}.")
    stalled_s = engine.seconds_since_progress()
    if stalled_s > state.config.observability.engine_progress_timeout_s:
        return Health("hung", engine.phase, f"The engine has work but has finished no step for {stalled_s:.0f} s.")
    return Health("ok", engine.phase)
