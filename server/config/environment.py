"""Options out of environment variables: Mapping -> values given."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from headway.server.config.fields import ENVIRONMENT_PREFIX, Kind
from headway.server.config.given import Findings, Given, Origin, Source
from headway.server.config.names import Names
from headway.server.config.references import Place, Reference, location, secret_place
from headway.server.config.values import BadValue, opposite, parse_text
from headway.server.config.variables import Form, Variable, find_variables


def read_environment(environ: Mapping[str, str], names: Names) -> Findings:
    """What the variables of variables.py give. A value that stands elsewhere is given as a Reference, or, of a secret, as its text."""
    variables = find_variables((name for name, text in environ.items() if not _is_met(name, text, names)), names)
    found = Findings(problems=variables.problems)
    groups: dict[str, list[Variable]] = {}
    for variable in variables.options:
        groups.setdefault(variable.base, []).append(variable)
    given: dict[str, Given] = {}
    for group in groups.values():
        if problem := _clash(group):
            found.problems.append(problem)
        else:
            _give(environ, group, given, found)
    found.given = list(given.values())
    found.config_file = next(filter(None, (unquoted(environ[name]) for name in variables.config_files)), None)
    return found


def secret_variables(environ: Mapping[str, str], names: Names) -> list[str]:
    """The variables that hold a secret, or say where one stands."""
    return [variable.name for variable in find_variables(environ, names).options if variable.meaning.setting.option.secret]


def _is_met(name: str, text: str, names: Names) -> bool:
    """Whether a variable of an existing deployment changes nothing here, such as SM_VLLM_TENSOR_PARALLEL_SIZE=1."""
    return name.startswith(ENVIRONMENT_PREFIX) and names.is_met(name.removeprefix(ENVIRONMENT_PREFIX), unquoted(text))


def _clash(group: list[Variable]) -> str | None:
    """Why variables of one base can't be used together: they contradict each other, or parts are missing."""
    first, *_ = group
    if other := next((variable for variable in group if variable.form is not first.form), None):
        return f"environment {other.name}: {first.name} is set too, and only one of them can count; leave the other out"
    if first.form is not Form.PART:
        return None
    numbers = {variable.part for variable in group}
    missing = min(set(range(max(numbers) + 1)) - numbers, default=None)
    if missing is None:
        return None
    return f"environment {first.base}_{max(numbers)}: the parts of a value are numbered from 0, and {first.base}_{missing} is missing"


def _give(environ: Mapping[str, str], group: list[Variable], given: dict[str, Given], found: Findings) -> None:
    """Adds what the variables of one base mean to ``given``, unless a stronger one is there already."""
    variable = group[0]
    setting = variable.meaning.setting
    label = f"{variable.base}_0 to _{len(group) - 1}" if len(group) > 1 else variable.name
    parts = sorted(group, key=lambda v: v.part)
    text = unquoted("".join(environ[v.name] for v in parts))
    if not text and variable.form is Form.WHOLE and setting.nullable:
        return  # unset
    try:
        value = _value(variable, text)
    except BadValue as error:
        found.problems.append(f"environment {label}: {error}")
        return
    first = given.setdefault(setting.name, Given(setting, value, Source(Origin.ENVIRONMENT, label)))
    if first.value != value:
        says = "" if isinstance(value, Reference) or isinstance(first.value, Reference) else " says otherwise and"
        found.warnings.append(f"environment {label} is not used: {first.source.label}{says} wins")


def _value(variable: Variable, text: str) -> Any:
    setting = variable.meaning.setting
    if variable.form is Form.FILE:
        if not text:
            raise BadValue("must name a file")
        return location(text) or Reference(Place.FILE, text)
    if variable.form is Form.SECRET_ARN:
        if not text.startswith("arn:"):
            raise BadValue("must be the ARN of a secret, arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME[:JSON-KEY]")
        return secret_place(text)
    refers = not (setting.option.secret or setting.option.location or variable.meaning.negated)
    if refers and (reference := location(text)):
        return reference
    if not text and setting.kind is Kind.BOOL:
        text = "true"  # the vLLM image turns an empty value into a bare flag
    value = parse_text(setting, text)
    return opposite(value) if variable.meaning.negated else value


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
