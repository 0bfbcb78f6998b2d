"""What the parent says of an engine process that left no last words."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
from pathlib import Path

import pytest

from headway.server.engine.engine_process import EngineProcess


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (signal.SIGBUS, "the engine process was ended by SIGBUS, most often because a weight file was cut off or overwritten"),
        (signal.SIGKILL, "use a larger machine"),
    ],
)
def test_the_sentence_says_what_to_do(tmp_path: Path, number: signal.Signals, sentence: str) -> None:
    engine = EngineProcess(tmp_path)
    engine._process = multiprocessing.get_context("spawn").Process(target=signal.raise_signal, args=(number,))
    engine._process.start()
    assert sentence in asyncio.run(asyncio.wait_for(engine.ended(), 60))
