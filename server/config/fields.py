"""The one declaration of an option, and its translation to flag, YAML key, environment name and help text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict, BaseModel, Field


class Topic(BaseModel):
    """Base of the frozen models, one a topic, whose fields are the options."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


@dataclass(frozen=True, slots=True)
class Option:
    """What an option has beside its type, default and description (those are pydantic's)."""

    short: tuple[str, ...] = ()  # further flags, "-q"
    aliases: tuple[str, ...] = ()  # further names, "device-memory-utilization"
    environment: tuple[str, ...] = ()  # environment variables of that meaning beside SM_VLLM_<NAME> and SM_<NAME>
    human: bool = False  # 4k = 4000, 4K = 4096
    secret: bool = False  # masked wherever it is shown
    positional: bool = False
    metavar: str | None = None


def option(default: Any, help: str, *, ge: float | None = None, gt: float | None = None, le: float | None = None,
           lt: float | None = None, **facts: Any) -> Any:
    """A pydantic field that carries an Option. ``help`` is one or two sentences for --help and the docs table."""
    return Field(default, description=help, ge=ge, gt=gt, le=le, lt=lt, json_schema_extra={"option": Option(**facts)})  # type: ignore[dict-item]
