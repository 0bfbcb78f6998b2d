"""The environment and the words after the image's name, turned into effective options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from headway.entrypoint.foreign import model_directory, read_foreign
from headway.entrypoint.model_source import find_model
from headway.server.config.sources import Resolved, examine
from headway.server.errors import ConfigError

# Words that come first by mistake, and would be taken for a model of the Hub: the program that each is meant for.
_OTHER_COMMANDS = dict.fromkeys(
    ("bench", "chat", "complete", "entrypoint", "health", "help", "options", "render", "router", "run-batch", "version"), "headway"
)
_OTHER_COMMANDS |= {name: name for name in ("train", "headway", "bash", "sh", "python", "python3")}
# They start or ask containers from outside, with packages that the image has not got.
_BESIDE_THE_IMAGE = ("conformance", "local", "push")


def read_options(words: Sequence[str], environ: Mapping[str, str], directory: Path | None = None) -> Resolved:
    """What ``examine_options`` finds. Raises ConfigError with every problem."""
    resolved, problems = examine_options(words, environ, directory)
    if problems:
        raise ConfigError(problems)
    return resolved


def examine_options(words: Sequence[str], environ: Mapping[str, str], directory: Path | None = None) -> tuple[Resolved, list[str]]:
    """Effective options: those of `headway serve`, over the image's own defaults; and a sentence for each problem. ``words`` may begin
    with `serve`, as SageMaker starts containers. Without ``directory`` a model is looked for where the environment says. Raises
    ConfigError where ``words`` are another program's."""
    argv = list(words[1:] if list(words[:1]) == ["serve"] else words)
    if words and words[0] in (*_OTHER_COMMANDS, *_BESIDE_THE_IMAGE):
        raise ConfigError([_not_started(words[0])])
    foreign = read_foreign(environ)
    search = find_model(environ, directory or model_directory(environ))
    if search.model is not None:
        foreign.fallbacks["model"] = (search.model, search.source)
        if not search.is_hub_id:
            foreign.fallbacks.pop("revision", None)  # HF_MODEL_REVISION is of HF_MODEL_ID
    resolved, problems = examine(argv, environ, fallbacks=foreign.fallbacks, model_missing=search.failure)
    return replace(resolved, warnings=(*resolved.warnings, *foreign.warnings)), [*problems, *foreign.problems]


def _not_started(word: str) -> str:
    if word == "train":
        return "train: this image serves models and trains none; SageMaker starts it with `serve`, as a model's container"
    if word in _BESIDE_THE_IMAGE:
        return f"{word}: `headway {word}` runs beside the image, not in it: pip install 'headway[toolkit]'"
    return (
        f"{word}: the words after the image's name are `serve`, a model and options; for another command name it before the image, with "
        f"`docker run --entrypoint {_OTHER_COMMANDS[word]}`"
    )
