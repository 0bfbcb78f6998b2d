"""The environment and the words after the image's name, turned into effective options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from headway.entrypoint.foreign import model_directory, read_foreign
from headway.entrypoint.model_source import find_model
from headway.server.config.sources import Resolved, resolve
from headway.server.errors import ConfigError


def read_options(words: Sequence[str], environ: Mapping[str, str], directory: Path | None = None) -> Resolved:
    """Effective options: those of `headway serve`, over the image's own defaults. ``words`` may begin with `serve`, as SageMaker
    starts containers. Without ``directory`` a model is looked for where the environment says. Raises ConfigError with every problem."""
    argv = list(words[1:] if words[:1] == ["serve"] else words)
    foreign = read_foreign(environ)
    search = find_model(environ, directory or model_directory(environ))
    if search.model is not None:
        foreign.fallbacks["model"] = (search.model, search.source)
        if not search.is_hub_id:
            foreign.fallbacks.pop("revision", None)  # HF_MODEL_REVISION is of HF_MODEL_ID
    try:
        resolved = resolve(argv, environ, fallbacks=foreign.fallbacks, model_missing=search.failure)
    except ConfigError as error:
        raise ConfigError([*error.problems, *foreign.problems]) from None
    if foreign.problems:
        raise ConfigError(foreign.problems)
    return replace(resolved, warnings=(*resolved.warnings, *foreign.warnings))
