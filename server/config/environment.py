"""Options out of environment variables: Mapping -> values given."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from headway.server.config.fields import ENVIRONMENT_PREFIX, SHORT_ENVIRONMENT_PREFIX, Kind
from headway.server.config.given import Findings, Given, Origin, Source
from headway.server.config.names import CONFIG_FLAG, Meaning, Names, dashed
from headway.server.config.values import BadValue, parse_text


@dataclass(frozen=True, slots=True)
class _Variable:
    """One variable that means an option; a lower ``rank`` wins."""

    rank: int
    name: str
    meaning: Meaning


def read_environment(environ: Mapping[str, str], names: Names) -> Findings:
    """SM_<NAME> wins over SM_VLLM_<NAME>, and both over an option's further variables.

    An unknown SM_VLLM_* is a problem. An unknown SM_* is somebody else's: SageMaker's own toolkits set such names.
    """
    found = Findings()
    variables = []
    files = []
    further = {name: Meaning(setting) for setting in names.settings for name in setting.option.environment}
    for name in sorted(environ):
        rank = 0
        if name in further:
            meaning: Meaning | None = further[name]
            rank = 2
        elif name.startswith(ENVIRONMENT_PREFIX):
            key = name.removeprefix(ENVIRONMENT_PREFIX)
            meaning = names.find(key)
            rank = 1
            if dashed(key) == CONFIG_FLAG:
                files.append((rank, name))
            elif meaning is None:
                found.problems.append(f"environment {name}: {names.unknown(key, _spell)}")
        elif name.startswith(SHORT_ENVIRONMENT_PREFIX):
            key = name.removeprefix(SHORT_ENVIRONMENT_PREFIX)
            meaning = names.find(key)
            if dashed(key) == CONFIG_FLAG:
                files.append((rank, name))
        else:
            continue
        if meaning:
            variables.append(_Variable(rank, name, meaning))
    _give(environ, variables, found)
    texts = [unquoted(environ[name]) for _, name in sorted(files)]
    found.config_file = next(filter(None, texts), None)
    return found


def _give(environ: Mapping[str, str], variables: list[_Variable], found: Findings) -> None:
    given: dict[str, Given] = {}
    for variable in sorted(variables, key=lambda v: v.rank):
        setting = variable.meaning.setting
        text = unquoted(environ[variable.name])
        if not text and setting.kind is Kind.BOOL:
            text = "true"  # the vLLM image turns an empty value into a bare flag
        elif not text and setting.nullable:
            continue  # unset
        try:
            value = parse_text(setting, text)
        except BadValue as error:
            found.problems.append(f"environment {variable.name}: {error}")
            continue
        value = (not value) if variable.meaning.negated else value
        first = given.setdefault(setting.name, Given(setting, value, Source(Origin.ENVIRONMENT, variable.name)))
        if first.value != value:
            found.warnings.append(f"environment {variable.name} is not used: {first.source.label} says otherwise and wins")
    found.given = list(given.values())


def unquoted(text: str) -> str:
    """``text`` without blanks around it and one layer of quotes: SageMaker scripts pass json.dumps of a value."""
    text = text.strip()
    if len(text) < 2 or text[0] != text[-1] or text[0] not in "\"'":
        return text
    if text[0] == '"':
        try:
            return str(json.loads(text)).strip()
        except ValueError:
            pass
    return text[1:-1].strip()


def _spell(name: str) -> str:
    return ENVIRONMENT_PREFIX + name.replace("-", "_").upper()
