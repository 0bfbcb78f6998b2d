"""Secrets that would stand in the rendered text, and what to write in their place. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from headway.container.secret_names import is_secret_name
from headway.server.config.command_line import read_command_line
from headway.server.config.environment import read_environment, unquoted
from headway.server.config.fields import ENVIRONMENT_PREFIX, Setting
from headway.server.config.references import location, secret_place
from headway.server.config.sources import all_names
from headway.server.config.values import BadValue, parse_text
from headway.server.config.variables import Form, Variable, find_variables


def secret_problems(environ: Mapping[str, str], words: Sequence[str]) -> list[str]:
    """A sentence for each secret that is given as itself. The secrets are in none of them."""
    variables = find_variables(environ, all_names())
    own = {variable.name for variable in variables.options}
    secret = {variable.name for variable in variables.options if variable.meaning.setting.option.secret}
    found = read_environment({name: environ[name] for name in secret}, all_names()).problems
    for base, group in _groups(variables.options).items():
        text = "".join(environ[variable.name] for variable in group)
        if problem := _problem(group[0].meaning.setting, unquoted(text), f"environment {base}", base):
            found.append(problem)
    for given in read_command_line(words[words[:1] == ("serve",) :], all_names()).given:
        if given.setting.option.secret:
            texts = given.value if isinstance(given.value, list) else [given.value]
            found += _problem_of(map(str, texts), given.setting.flag, ENVIRONMENT_PREFIX + given.setting.name.upper())
    # Headway follows no reference in variables of others, so that theirs is the secret itself.
    return [*found, *(_foreign(name) for name, text in environ.items() if text and name not in own and is_secret_name(name))]


def without_places(environ: Mapping[str, str]) -> dict[str, str]:
    """``environ`` without secrets and without what stands elsewhere: this machine need not be able to read it."""
    hidden = {variable.name for variable in find_variables(environ, all_names()).options if _stands_elsewhere(variable, environ)}
    return {name: text for name, text in environ.items() if name not in hidden}


def _stands_elsewhere(variable: Variable, environ: Mapping[str, str]) -> bool:
    option = variable.meaning.setting.option
    if option.secret or variable.form is Form.FILE:
        return True
    try:
        return not option.location and location(unquoted(environ[variable.name])) is not None
    except BadValue:
        return False  # the sentence about it comes when the options are resolved


def _groups(variables: Iterable[Variable]) -> dict[str, list[Variable]]:
    """Secrets by base name, the parts of one in their order."""
    groups: dict[str, list[Variable]] = {}
    for variable in sorted(variables, key=lambda variable: variable.part):
        if variable.meaning.setting.option.secret and variable.form in (Form.WHOLE, Form.PART):
            groups.setdefault(variable.base, []).append(variable)
    return groups


def _problem(setting: Setting, text: str, place: str, name: str) -> str | None:
    if not text:
        return None
    try:
        value = parse_text(setting, text)
    except BadValue:
        return None  # read_environment tells it
    texts = value if isinstance(value, list) else [value]
    return next(iter(_problem_of((item for item in texts if item is not None), place, name)), None)


def _problem_of(texts: Iterable[str], place: str, name: str) -> list[str]:
    try:
        return [] if all(secret_place(text) for text in texts) else [_in_the_open(place, name)]
    except BadValue as error:
        return [f"{place}: {error}"]


def _in_the_open(place: str, name: str) -> str:
    return (
        f"{place} is the secret itself, which everybody could read who sees the rendered text or may describe the model: keep it in "
        f"Secrets Manager or SSM and write {name}_SECRET_ARN=arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME or {name}=ssm:/NAME, "
        f"or outside of SageMaker keep it in a file and write {name}_FILE=/run/secrets/NAME "
        "(docs/configuration.md, values that stand elsewhere)"
    )


def _foreign(name: str) -> str:
    return (
        f"environment {name} looks like a secret and would stand in the rendered text as it is: leave it out (on AWS the role gives a "
        "container its rights), or have a script of yours fetch it"
    )
