"""Which environment variables mean an option, and in which form they hold its value."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from headway.server.config.fields import ENVIRONMENT_PREFIX, SHORT_ENVIRONMENT_PREFIX
from headway.server.config.names import CONFIG_FLAG, Meaning, Names, dashed

_PART = re.compile(r"(.+)_(0|[1-9]\d{0,2})", re.ASCII)


class Form(enum.StrEnum):
    """What a variable holds, as its name's ending tells."""

    WHOLE = ""
    PART = "_<n>"
    FILE = "_FILE"
    SECRET_ARN = "_SECRET_ARN"  # noqa: S105 - the ending of a name


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable. ``base`` is its name without the form's ending; of two bases for one option the lower ``rank`` wins."""

    name: str
    base: str
    form: Form
    part: int
    rank: int
    meaning: Meaning


@dataclass(slots=True)
class Variables:
    """The variables that are ours, the strongest first, and a sentence for each that only seems to be."""

    options: list[Variable] = field(default_factory=list)
    config_files: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def find_variables(environment_names: Iterable[str], names: Names) -> Variables:
    """SM_<NAME> wins over SM_VLLM_<NAME>, and both over an option's further names, which win in the order of their declaration.

    An unknown SM_VLLM_* is a problem. An unknown SM_* is somebody else's: SageMaker's own toolkits set such names.
    """
    further = {name: (2 + at, Meaning(s)) for s in names.settings for at, name in enumerate(s.option.environment)}
    found = Variables()
    for name in sorted(environment_names):  # so that SM_CONFIG comes before SM_VLLM_CONFIG, too
        if name.startswith(SHORT_ENVIRONMENT_PREFIX) and dashed(_key(name)[1]) == CONFIG_FLAG:
            found.config_files.append(name)
        elif variable := _variable(name, names, further):
            found.options.append(variable)
        elif name.startswith(ENVIRONMENT_PREFIX):
            found.problems.append(f"environment {name}: {_unknown(name, names)}")
    found.options.sort(key=lambda variable: variable.rank)
    return found


def _variable(name: str, names: Names, further: dict[str, tuple[int, Meaning]]) -> Variable | None:
    for base, form, part in _readings(name):
        if base in further:
            rank, meaning = further[base]
        elif base.startswith(SHORT_ENVIRONMENT_PREFIX):
            rank, key = _key(base)
            if (known := names.find(key)) is None:
                continue
            meaning = known
        else:
            continue
        # --no-x takes no value that could be too long for one variable.
        if form is Form.WHOLE or not (meaning.negated or (form is Form.SECRET_ARN and not meaning.setting.option.secret)):
            return Variable(name, base, form, part, rank, meaning)
    return None


def _readings(name: str) -> Iterator[tuple[str, Form, int]]:
    """(base, form, number of the part) that a name can have, an option of exactly that name first."""
    yield name, Form.WHOLE, 0
    for form in (Form.SECRET_ARN, Form.FILE):
        if name.endswith(form):
            yield name.removesuffix(form), form, 0
    if match := _PART.fullmatch(name):
        yield match[1], Form.PART, int(match[2])


def _key(name: str) -> tuple[int, str]:
    """(rank, the option's name) in a variable with one of our prefixes."""
    if name.startswith(ENVIRONMENT_PREFIX):
        return 1, name.removeprefix(ENVIRONMENT_PREFIX)
    return 0, name.removeprefix(SHORT_ENVIRONMENT_PREFIX)


def _unknown(name: str, names: Names) -> str:
    _, key = _key(name)
    base = key if names.explained(key) else list(_readings(key))[-1][0]
    ending = key.removeprefix(base)
    if names.find(base) or dashed(base) == CONFIG_FLAG:
        return f"this option can't be given with {ending} behind its name; write {name.removesuffix(ending)}"
    return names.unknown(base, lambda near: ENVIRONMENT_PREFIX + near.replace("-", "_").upper() + ending)
