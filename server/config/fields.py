"""The one declaration of an option, and its translation to flag, YAML key, environment names and help."""

from __future__ import annotations

import enum
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

ENVIRONMENT_PREFIX = "SM_VLLM_"
SHORT_ENVIRONMENT_PREFIX = "SM_"


class Topic(BaseModel):
    """Base of the frozen models, one a topic, whose fields are the options. The docstring's first line heads the group in --help."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), hide_input_in_errors=True)


@dataclass(frozen=True, slots=True)
class Option:
    """What an option has beside its type, default, bounds and description (those are pydantic's)."""

    short: tuple[str, ...] = ()  # further flags, "-q"
    aliases: tuple[str, ...] = ()  # further names, "device-memory-utilization"
    environment: tuple[str, ...] = ()  # environment variables of that meaning beside SM_VLLM_<NAME> and SM_<NAME>
    human: bool = False  # 4k = 4000, 4K = 4096
    secret: bool = False  # masked wherever it is shown
    location: bool = False  # the value says where something is: file:// and s3:// are such values, not places to read the value from
    synonyms: tuple[tuple[str, str], ...] = ()  # of a choice: (a text in small letters, the word it means)
    refused: tuple[tuple[str, str], ...] = ()  # of a choice: (a word of vLLM's in small letters, why it is not taken and what to use)
    repeats: bool = False  # a list whose flag takes one word, and is repeated for more
    positional: bool = False
    metavar: str | None = None


def option(
    default: Any,
    help: str,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    **facts: Any,
) -> Any:
    """A pydantic field that carries an Option. ``help`` is one or two sentences for --help and the docs table."""
    extra: dict[str, Any] = {"option": Option(**facts)}
    shown = not facts.get("secret", False)
    return Field(default, description=help, ge=ge, gt=gt, le=le, lt=lt, repr=shown, json_schema_extra=extra)


class Kind(enum.StrEnum):
    """How an option's text is read."""

    BOOL = "bool"
    INT = "int"
    FLOAT = "float"
    TEXT = "text"
    CHOICE = "choice"
    LIST = "list"  # of texts
    JSON = "json"  # an object


_KINDS = {bool: Kind.BOOL, int: Kind.INT, float: Kind.FLOAT, str: Kind.TEXT}


@dataclass(frozen=True, slots=True)
class Setting:
    """One option as users see it. ``words`` are the texts allowed literally: a choice's, or "auto" beside a number."""

    topic: str
    title: str
    name: str
    kind: Kind
    words: tuple[str, ...]
    nullable: bool
    default: Any
    help: str
    option: Option
    bounds: tuple[tuple[str, float], ...]  # ("ge", 1), ("le", 65535)

    @property
    def names(self) -> tuple[str, ...]:
        """Every positive name, in dashes, the option's own first."""
        return (self.name.replace("_", "-"), *self.option.aliases)

    @property
    def negative_names(self) -> tuple[str, ...]:
        """Names that turn a boolean off: no-x, and enable-x <-> disable-x."""
        if self.kind is not Kind.BOOL:
            return ()
        inverse = {"enable-": "disable-", "disable-": "enable-"}
        swapped = [there + name.removeprefix(here) for name in self.names for here, there in inverse.items() if name.startswith(here)]
        return (*(f"no-{name}" for name in self.names), *swapped)

    @property
    def key(self) -> str:
        return self.names[0]

    @property
    def flag(self) -> str:
        return f"--{self.key}"

    @property
    def environment_names(self) -> tuple[str, ...]:
        """Documented environment names, the strongest first."""
        upper = [name.replace("-", "_").upper() for name in self.names]
        return (
            *(SHORT_ENVIRONMENT_PREFIX + name for name in upper),
            *(ENVIRONMENT_PREFIX + name for name in upper),
            *self.option.environment,
        )


def settings_of(tree: type[BaseModel]) -> tuple[Setting, ...]:
    """Every option below ``tree``, whose fields are topics, in the order of declaration. Names must be unique over all topics."""
    found = tuple(_settings(tree))
    names = [name for setting in found for name in (*setting.names, *setting.negative_names)]
    doubles = {name for name in names if names.count(name) > 1}
    assert not doubles, f"option names declared twice: {doubles}"
    return found


def _settings(tree: type[BaseModel]) -> Iterator[Setting]:
    for topic, group in tree.model_fields.items():
        model = group.annotation
        assert isinstance(model, type)
        assert issubclass(model, Topic)
        title = (model.__doc__ or topic).strip().partition("\n")[0].rstrip(".")
        for name, field in model.model_fields.items():
            yield _setting(topic, title, name, field)


def _setting(topic: str, title: str, name: str, field: FieldInfo) -> Setting:
    extra: Any = field.json_schema_extra
    facts: Option = extra["option"]
    kind, words, nullable = _shape(field.annotation)
    bounds = [(sign, getattr(fact, sign)) for fact in field.metadata for sign in ("ge", "gt", "le", "lt") if hasattr(fact, sign)]
    return Setting(topic, title, name, kind, words, nullable, field.default, field.description or "", facts, tuple(bounds))


def _shape(annotation: Any) -> tuple[Kind, tuple[str, ...], bool]:
    """(kind, literal words, whether None is a value) of a field's annotation."""
    parts = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    nullable = type(None) in parts
    words: tuple[str, ...] = ()
    kinds = []
    for part in parts:
        if get_origin(part) is Literal:
            words += get_args(part)
        elif get_origin(part) is list and get_args(part) == (str,):
            kinds.append(Kind.LIST)
        elif get_origin(part) is dict:
            kinds.append(Kind.JSON)
        elif part is not type(None):
            kinds.append(_KINDS[part])
    assert len(kinds) + (not kinds and bool(words)) == 1, f"an option can't have the type {annotation}"
    return (kinds[0] if kinds else Kind.CHOICE), words, nullable
