"""The input of run-batch: OpenAI's batch format, one request a line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from headway.server.api.paths import INFERENCE_PATHS
from headway.server.errors import ConfigError
from headway.server.words import cut, plural

_MOST_PROBLEMS = 5
# What asks the model, and nothing that changes a server: a file of requests may come from somebody else.
BATCH_PATHS = INFERENCE_PATHS - {"/invocations"}


class BatchLine(BaseModel):
    """https://platform.openai.com/docs/api-reference/batch/request-input"""

    model_config = ConfigDict(extra="forbid")

    custom_id: str = Field(min_length=1, max_length=512)
    method: Literal["POST"] = "POST"
    url: str
    body: dict[str, Any]


def check_lines(path: Path) -> list[str]:
    """Looks at every line before the first is sent, and returns their custom_ids. Raises ConfigError with the first few faults."""
    problems: list[str] = []
    at: dict[str, int] = {}
    for number, text in _numbered(path):
        try:
            line = BatchLine.model_validate_json(text)
        except ValidationError as error:
            problems.append(f"line {number}: {_told(error)}")
            continue
        if line.custom_id in at:
            problems.append(f"line {number}: custom_id {cut(line.custom_id, 60)!r} stands in line {at[line.custom_id]} too")
        if line.url not in BATCH_PATHS:
            problems.append(f"line {number}: url must be one of {', '.join(sorted(BATCH_PATHS))}, got {cut(line.url, 60)!r}")
        if line.body.get("stream"):
            problems.append(f"line {number}: stream can't be true in a batch, whose answers are whole")
        at[line.custom_id] = number
    if problems:
        shown = [f"{path}: {problem}" for problem in problems[:_MOST_PROBLEMS]]
        if len(problems) > _MOST_PROBLEMS:
            shown.append(f"{path}: and {plural(len(problems) - _MOST_PROBLEMS, 'more fault')}")
        raise ConfigError(shown)
    if not at:
        raise ConfigError([f"{path} holds no requests; each line must be a JSON object with custom_id, url and body"])
    return list(at)


def read_lines(path: Path) -> Iterator[BatchLine]:
    """Of a file that check_lines has found good."""
    for _, text in _numbered(path):
        yield BatchLine.model_validate_json(text)


def _numbered(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as file:
            for number, text in enumerate(file, 1):
                if text.strip():
                    yield number, text
    except OSError as error:
        raise ConfigError([f"the input file {path} can't be read: {error.strerror}"]) from error


def _told(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    return cut(f"{place}: {first['msg']}" if place else first["msg"], 200)
