"""`headway render`: the text that deploys a container, out of the settings that `headway check` reads."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from headway.container.render.arguments import parser
from headway.container.render.reading import read_deployment
from headway.server.errors import ConfigError
from headway.server.say import say

# Where each target's render(deployment) -> str is.
_ON_SAGEMAKER = {
    "boto3": "headway.container.render.boto3_script",
    "terraform": "headway.container.render.terraform",
    "cloudformation": "headway.container.render.cloudformation",
}
_ELSEWHERE = {
    "compose": "headway.container.render.compose",
    "kubernetes": "headway.container.render.kubernetes",
}


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Returns 0. Raises ConfigError with every problem."""
    modules = {**_ON_SAGEMAKER, **_ELSEWHERE}
    given = parser(tuple(modules), tuple(_ON_SAGEMAKER)).parse_intermixed_args(list(argv))
    deployment, warnings = read_deployment(given, environ, on_sagemaker=given.target in _ON_SAGEMAKER)
    for warning in warnings:
        say("warning", warning)
    text: str = importlib.import_module(modules[given.target]).render(deployment)
    if given.output is None:
        sys.stdout.write(text)
    else:
        _write(Path(given.output), text)
    return 0


def _write(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ConfigError([f"--output {path} can't be written: {error.strerror}"]) from error
