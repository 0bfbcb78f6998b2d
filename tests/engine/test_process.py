"""What an engine process is called, and what it says of its end."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from headway.server.config.server import ServerConfig
from headway.server.engine.process import EngineArguments, last_words
from headway.server.errors import ConfigError, ModelSourceError, RankDied
from headway.server.source.files import ModelFiles


def arguments_of(num_engines: int, index: int) -> EngineArguments:
    config = ServerConfig.model_validate({"model": {"model": "m"}, "data_parallel": {"data_parallel_size": num_engines}})
    there = Path("/nowhere")
    return EngineArguments(config, index, ModelFiles("safetensors", there, None, "m"), there, there, None, None)


def test_the_log_tells_engines_apart() -> None:
    assert [arguments_of(2, index).role for index in (0, 1)] == ["engine-0", "engine-1"]
    assert arguments_of(1, 0).role == "engine"


@pytest.mark.parametrize(
    ("problem", "cause"),
    [
        (RankDied("rank 1 was killed (SIGKILL)"), "rank 1 was killed (SIGKILL)"),
        (ZeroDivisionError("by zero"), "ZeroDivisionError: by zero"),
    ],
)
def test_the_cause_names_the_engine_where_there_are_several(problem: Exception, cause: str, caplog: pytest.LogCaptureFixture) -> None:
    for arguments, told in ((arguments_of(2, 1), f"in engine 1: {cause}"), (arguments_of(1, 0), cause)):
        words = last_words(arguments, problem)
        assert (words.cause, words.is_user_error) == (told, False)
    levels = {(record.levelno, record.exc_info is not None) for record in caplog.records}
    assert levels == {(logging.ERROR, not isinstance(problem, RankDied))}  # of a rank, its own log has the traceback


@pytest.mark.parametrize("problem", [ConfigError(["--dtype: no"]), ModelSourceError("nothing is there")])
def test_what_a_user_can_mend_is_told_as_it_is(problem: Exception) -> None:
    words = last_words(arguments_of(2, 1), problem)
    assert (words.cause, words.is_user_error) == (str(problem), True)
