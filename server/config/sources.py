"""Precedence: command line > --config YAML > environment > the caller's fallbacks > default, and who said what.

What wins may name a place where the value stands; only then is that place read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import ValidationError

from headway.server.config.command_line import read_command_line
from headway.server.config.environment import read_environment
from headway.server.config.fields import Setting, settings_of
from headway.server.config.given import Findings, Given, Origin, Source
from headway.server.config.names import Names
from headway.server.config.places import Places
from headway.server.config.references import followed, references_in
from headway.server.config.server import MODEL_MISSING, ServerConfig, problems, warnings
from headway.server.config.values import BadValue
from headway.server.config.vllm_variables import sentence_about, without_effect
from headway.server.errors import ConfigError

DEFAULT = Source(Origin.DEFAULT)


@dataclass(frozen=True, slots=True)
class Resolved:
    """The effective options. ``sources`` has an entry for each field that is not left at its default."""

    config: ServerConfig
    sources: Mapping[str, Source]
    warnings: tuple[str, ...]
    config_file: str | None
    show_config: bool

    def value(self, setting: Setting) -> Any:
        return getattr(getattr(self.config, setting.topic), setting.name)

    def source(self, setting: Setting) -> Source:
        return self.sources.get(setting.name, DEFAULT)


@cache
def all_settings() -> tuple[Setting, ...]:
    return settings_of(ServerConfig)


@cache
def all_names() -> Names:
    return Names(all_settings())


def resolve(
    argv: Sequence[str],
    environ: Mapping[str, str],
    *,
    fallbacks: Mapping[str, tuple[Any, str]] | None = None,
    model_missing: str = MODEL_MISSING,
) -> Resolved:
    """What ``examine`` finds. Raises ConfigError with every problem of every source at once."""
    resolved, found = examine(argv, environ, fallbacks=fallbacks, model_missing=model_missing)
    if found:
        raise ConfigError(found)
    return resolved


def examine(
    argv: Sequence[str],
    environ: Mapping[str, str],
    *,
    fallbacks: Mapping[str, tuple[Any, str]] | None = None,
    model_missing: str = MODEL_MISSING,
) -> tuple[Resolved, list[str]]:
    """All options from all sources, and a sentence for each problem; with any, the options are what could be understood.

    ``fallbacks`` maps a field's name to (value, where from) and counts above the default only. A missing model is a problem,
    told as ``model_missing``, unless --show-config is on the command line.
    """
    names = all_names()
    line = read_command_line(argv, names)
    environment = read_environment(environ, names)
    places = Places(environ)
    path = line.config_file or environment.config_file
    file = _read_file(path, names, places)
    below = [Given(names.setting(name), value, Source(Origin.FALLBACK, label)) for name, (value, label) in (fallbacks or {}).items()]
    chosen = {given.setting.name: given for given in (*below, *environment.given, *file.given, *line.given)}
    unreadable = _follow(chosen, places)
    found = [*line.problems, *file.problems, *environment.problems, *unreadable]
    config, invalid = _build(chosen)
    useless = without_effect(environ, names)
    if useless and config.start.fail_on_environ_validation:
        found.append(f"{sentence_about(useless)}; unset what is named, or leave out --fail-on-environ-validation")
    found += invalid or [_with_sources(problem, chosen, names) for problem in problems(config)]
    # A word after an option that is not understood, or a place that can't be read, may have named the model.
    unknowable = line.skipped_words or invalid or unreadable or (file.problems and not file.given)
    if config.model.model is None and not unknowable and not line.show_config:
        found.append(model_missing)
    noted = (_with_sources(warning, chosen, names) for warning in warnings(config))
    notes = [*line.warnings, *file.warnings, *environment.warnings, *noted]
    if useless:
        notes.append(sentence_about(useless))
    sources = {} if invalid else {name: given.source for name, given in chosen.items()}
    return Resolved(config, sources, tuple(notes), path, line.show_config), found


def _read_file(path: str | None, names: Names, places: Places) -> Findings:
    if path is None:
        return Findings()
    from headway.server.config.yaml_file import read_yaml  # PyYAML takes as long to import as all of this

    return read_yaml(path, names, places)


def _follow(chosen: dict[str, Given], places: Places) -> list[str]:
    """Puts the value in the place of each reference in ``chosen``; takes out, with a sentence, what can't be read."""
    faults: dict[str, BadValue] = {}
    wanted = {}
    for name, given in chosen.items():
        try:
            wanted[name] = references_in(given)
        except BadValue as error:
            faults[name] = error
    contents = places.read({reference for references in wanted.values() for reference in references})
    for name in [name for name, references in wanted.items() if references]:
        try:
            chosen[name] = followed(chosen[name], contents)
        except BadValue as error:
            faults[name] = error
    return [f"{chosen.pop(name).source}: {error}" for name, error in faults.items()]


def _with_sources(problem: str, chosen: Mapping[str, Given], names: Names) -> str:
    """A cross-field problem, with where each option that it names came from (unless the command line says so itself)."""
    meanings = [names.find(flag) for flag in re.findall(r"--([a-z-]+)", problem)]
    given = {m.setting.name: chosen[m.setting.name] for m in meanings if m and m.setting.name in chosen}
    notes = [f"{g.setting.flag} is from {g.source}" for g in given.values() if g.source.origin is not Origin.COMMAND_LINE]
    return f"{problem} ({'; '.join(notes)})" if notes else problem


def _build(chosen: Mapping[str, Given]) -> tuple[ServerConfig, list[str]]:
    """(the config, what pydantic refuses in it). The values were checked as they were read, so the second is a last net."""
    tree: dict[str, dict[str, Any]] = {}
    for given in chosen.values():
        tree.setdefault(given.setting.topic, {})[given.setting.name] = given.value
    try:
        return ServerConfig.model_validate(tree), []
    except ValidationError as error:
        refused = [(str(fault["loc"][1]), fault["msg"]) for fault in error.errors(include_input=False, include_url=False)]
        return ServerConfig(), [f"{chosen[name].source}: {message}" for name, message in refused]
