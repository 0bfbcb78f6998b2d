"""What a container is given on SageMaker, which passes no words: options of the command line as variables. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from headway.server.config.command_line import read_command_line
from headway.server.config.environment import unquoted
from headway.server.config.fields import ENVIRONMENT_PREFIX, Setting
from headway.server.config.sources import all_names
from headway.server.config.values import to_text
from headway.server.config.variables import find_variables


def without_words(environ: Mapping[str, str], words: Sequence[str]) -> dict[str, str]:
    """``environ`` with what ``words`` say, which win: no other variable of their options is left."""
    line = read_command_line(words[words[:1] == ("serve",) :], all_names())
    said = {given.setting.name: _variable(given.setting, given.value) for given in line.given}
    variables = find_variables(environ, all_names())
    beaten = {variable.name for variable in variables.options if variable.meaning.setting.name in said}
    told = dict(said.values())
    if line.config_file:
        beaten.update(variables.config_files)
        told[f"{ENVIRONMENT_PREFIX}CONFIG"] = line.config_file
    return {name: text for name, text in environ.items() if name not in beaten} | told


def is_given(option: str, environ: Mapping[str, str]) -> bool:
    """Whether a variable says what ``option``, a field's name, is."""
    return any(variable.meaning.setting.name == option for variable in find_variables(environ, all_names()).options)


def _variable(setting: Setting, value: object) -> tuple[str, str]:
    text = to_text(setting, value)
    return ENVIRONMENT_PREFIX + setting.name.upper(), text if unquoted(text) == text else json.dumps(text)
