from __future__ import annotations

import logging

import pytest

from headway.server.phases import PhaseLog, told


def test_a_phase_is_told_when_the_next_one_begins(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "headway"):
        phases = PhaseLog("getting the model", 100.0)
        phases.enter("importing torch", 101.26)
        assert phases.current == "importing torch"
        told("loading the tokenizer", 0.5)
        phases.enter("ready", 103.3)
    assert phases.seconds == pytest.approx({"getting the model": 1.26, "importing torch": 2.04})
    assert caplog.messages == ["phase getting the model 1.26 s", "phase loading the tokenizer 0.50 s", "phase importing torch 2.04 s"]
