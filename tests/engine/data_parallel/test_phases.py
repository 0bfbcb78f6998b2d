"""The start of several engines as one."""

from __future__ import annotations

from headway.server.engine.data_parallel.phases import JointPhases


def test_a_phase_begins_with_the_last_engine() -> None:
    told: list[tuple[str, float]] = []
    phases = JointPhases(2, lambda name, since: told.append((name, since)))
    for engine, name, since in [(0, "torch", 1.0), (0, "weights", 2.0), (1, "torch", 5.0), (1, "weights", 6.0), (1, "warm", 7.0)]:
        phases.enter(engine, name, since)
    assert told == [("torch", 5.0), ("weights", 6.0)]
    phases.enter(0, "warm", 6.5)  # heard late: no phase ends before it began
    assert told[2:] == [("warm", 7.0)]
