"""How the container ends: SIGTERM while an answer streams. One copy shows all of it."""

from __future__ import annotations

from headway.container.conformance.check import Clause, Needs, check
from headway.container.conformance.outcome import require
from headway.container.conformance.probe import Probe
from headway.container.conformance.stopping import LIMIT_S, Stop

_TURN_LIMIT_S = 5.0
_CLAUSE = Clause("your-algorithms-inference-code", "SIGTERM ends a container, and SIGKILL 30 seconds later.")


@check("stop.exits", "After SIGTERM it ends with status 0 within 30 s", _CLAUSE, needs=Needs.IMAGE)
def exits(probe: Probe) -> None:
    stop = _stop(probe)
    require(stop.exit_status is not None, f"it still runs {LIMIT_S:g} s after SIGTERM")
    require(stop.exit_status == 0, f"it ends with status {stop.exit_status}")


@check("stop.stream", "After SIGTERM an open stream comes to its end", _CLAUSE, needs=Needs.IMAGE)
def stream(probe: Probe) -> None:
    require(_stop(probe).is_stream_whole, "the stream broke off, or ended with an error")


@check("stop.ping", "After SIGTERM /ping is no longer 200", _CLAUSE, needs=Needs.IMAGE)
def ping(probe: Probe) -> None:
    turned_s = _stop(probe).ping_turned_s
    require(turned_s is not None and turned_s < _TURN_LIMIT_S, f"/ping is still 200 {_TURN_LIMIT_S:g} s after SIGTERM, or until the end")


def _stop(probe: Probe) -> Stop:
    stop = probe.starts.stop
    turned = "never" if stop.ping_turned_s is None else f"after {stop.ping_turned_s:.2f} s"
    probe.note(f"SIGTERM: /ping turned {turned}, status {stop.exit_status} after {stop.duration_s:.1f} s")
    probe.note(stop.stream)
    return stop
