"""The environment and the words after the image's name, turned into effective options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headway.entrypoint.model_source import MODEL_DIRECTORY, find_model
from headway.server.config.fields import Kind
from headway.server.config.sources import Resolved, all_names, resolve
from headway.server.config.values import BadValue, parse_text
from headway.server.errors import ConfigError

DEFAULT_PORT = 8080
DEFAULT_HOST = "0.0.0.0"


def read_options(words: Sequence[str], environ: Mapping[str, str], model_directory: Path = MODEL_DIRECTORY) -> Resolved:
    """Effective options: those of `headway serve`, over the image's own defaults. ``words`` may begin with `serve`, as SageMaker
    starts containers. Raises ConfigError with every problem."""
    argv = list(words[1:] if words[:1] == ["serve"] else words)
    port, problems = _default_port(environ)
    fallbacks: dict[str, tuple[Any, str]] = {"port": port, "host": (DEFAULT_HOST, "image default")}
    search = find_model(environ, model_directory)
    if search.model is not None:
        fallbacks["model"] = (search.model, search.source)
    try:
        resolved = resolve(argv, environ, fallbacks=fallbacks, model_missing=search.failure)
    except ConfigError as error:
        raise ConfigError([*error.problems, *problems]) from None
    if problems:
        raise ConfigError(problems)
    return resolved


def _default_port(environ: Mapping[str, str]) -> tuple[tuple[int, str], list[str]]:
    """SageMaker sets SAGEMAKER_BIND_TO_PORT where several containers share an instance."""
    name = "SAGEMAKER_BIND_TO_PORT"
    if not (text := environ.get(name, "").strip()):
        return (DEFAULT_PORT, "image default"), []
    setting = all_names().setting("port")
    assert setting.kind is Kind.INT
    try:
        return (parse_text(setting, text), f"environment {name}"), []
    except BadValue as error:
        return (DEFAULT_PORT, "image default"), [f"environment {name}: {error}"]
