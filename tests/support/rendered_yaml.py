"""`headway render` as a user runs it, and what it printed as values."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
import yaml

from headway.container.settings import CARRIED
from headway.server.cli import main

IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/headway:1.0"
# Values that YAML 1.1, YAML 1.2, compose or Kubernetes would like to read as something else.
HOSTILE = {
    "A_BOOL": "yes",
    "A_LETTER": "n",
    "AN_OCTAL": "0o17",
    "A_NUMBER": "1_000",
    "A_SEXAGESIMAL": "12:30:45",
    "A_DATE": "2026-11-25",
    "A_NULL": "~",
    "AN_EMPTY": "",
    "A_VARIABLE": "$HOME ${HOME} $$ $(HOME) $",
    "A_COMMENT": "a # b",
    "A_MAPPING": "a: {b: [c]}",
    "A_TAG": "!!python/object/apply:os.system ['true']",
    "AN_ANCHOR": "&a *a",
    "A_QUOTE": '"\'\\"',
    "LINES": "---\nkind: Secret\n...\n\t- x\r\n",
    "BLANKS": "  a  ",
    "OTHERS": "é\u2028\x85\x07😀",
}


def render(capsys: pytest.CaptureFixture[str], target: str, *words: str) -> str:
    """What is printed; everything else of a run fails the test."""
    capsys.readouterr()
    with _nothing_carried():
        status = main(["render", target, *words])
    out, err = capsys.readouterr()
    assert status == 0, err
    return out


def refusal(capsys: pytest.CaptureFixture[str], target: str, *words: str) -> str:
    """What is said of settings that can't be rendered."""
    capsys.readouterr()
    with _nothing_carried():
        assert main(["render", target, *words]) == 2
    return capsys.readouterr().err


@contextmanager
def _nothing_carried() -> Iterator[None]:
    """Without the variables of this process that a deployment would be given where no -e stands."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith(CARRIED)}
    with patch.dict(os.environ, bare, clear=True):
        yield


def documents(text: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(text))


def as_options(variables: dict[str, str]) -> list[str]:
    return [word for name, value in variables.items() for word in ("-e", f"{name}={value}")]
