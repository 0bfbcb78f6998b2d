"""Whether a call's input is what the API takes, by botocore's model of it, with the limits that botocore leaves to the service."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from headway.container.limits import environment_problems
from headway.container.local.control.registry import refused
from headway.container.local.service_models import service_model
from headway.server.words import cut

if TYPE_CHECKING:
    from botocore.model import Shape


def check_input(operation: str, body: dict[str, Any], service: str = "sagemaker") -> None:
    """Raises PlatformError with every problem, worded as the service words them."""
    from botocore.validate import ParamValidator

    shape = service_model(service).operation_model(operation).input_shape
    report = ParamValidator().validate(body, shape)
    if report.has_errors():
        raise refused(report.generate_report())
    problems = list(_problems(body, shape, ""))
    if problems:
        count = f"{len(problems)} validation error{'s' if len(problems) > 1 else ''} detected"
        raise refused(f"{count}: {'; '.join(problems[:10])}")
    if too_much := list(_environment_problems(body)):
        raise refused("; ".join(too_much))


def _problems(value: Any, shape: Shape, path: str) -> Iterator[str]:
    """What the validator of clients does not look at: patterns, lists of allowed words, upper limits."""
    match shape.type_name:
        case "structure":
            for name, member in shape.members.items():
                if name in value:
                    yield from _problems(value[name], member, f"{path}.{_camel(name)}".lstrip("."))
        case "list":
            yield from _length_problem(value, shape, path)
            for number, item in enumerate(value, 1):
                yield from _problems(item, shape.member, f"{path}.{number}.member")
        case "map":
            yield from _length_problem(value, shape, path)
            for key, item in value.items():
                yield from _problems(key, shape.key, f"{path}.key")
                yield from _problems(item, shape.value, f"{path}.{key}.value")
        case "string":
            yield from _text_problem(value, shape, path)
        case "timestamp" if not isinstance(value, int | float):
            yield _constraint(value, path, "be a number of seconds since 1970")
        case "integer" | "long" | "float" | "double":
            if (most := shape.metadata.get("max")) is not None and value > most:
                yield _constraint(value, path, f"have value less than or equal to {most}")


def _text_problem(value: str, shape: Shape, path: str) -> Iterator[str]:
    yield from _length_problem(value, shape, path)
    if (words := shape.metadata.get("enum")) and value not in words:
        # The service lists all of them too, but the 200 instance types help nobody.
        listed = f"[{', '.join(words)}]" if len(words) <= 20 else f"one of its {len(words)} words"
        yield _constraint(value, path, f"satisfy enum value set: {listed}")
    pattern = shape.metadata.get("pattern")
    if pattern and (compiled := _compiled(pattern)) and not compiled.fullmatch(value):
        yield _constraint(value, path, f"satisfy regular expression pattern: {pattern}")


def _length_problem(value: Any, shape: Shape, path: str) -> Iterator[str]:
    if (most := shape.metadata.get("max")) is not None and len(value) > most:
        yield _constraint(value if isinstance(value, str) else f"{len(value)} entries", path, f"have length less than or equal to {most}")


def _constraint(value: Any, path: str, rule: str) -> str:
    # A value of an Environment may be a secret, and errors end up in logs.
    shown = "***" if ".environment." in f".{path.lower()}." else cut(str(value), 100)
    return f"Value '{shown}' at '{path}' failed to satisfy constraint: Member must {rule}"


@cache
def _compiled(pattern: str) -> re.Pattern[str] | None:
    """None for a pattern in a dialect that Python hasn't (\\p{L}): those of tags, which mean nothing here."""
    try:
        return re.compile(pattern)
    except re.error:
        return None


def _environment_problems(value: Any) -> Iterator[str]:
    """Of each Environment, however deep it stands."""
    if isinstance(value, dict):
        for name, member in value.items():
            if name == "Environment":
                yield from environment_problems(member)
            else:
                yield from _environment_problems(member)
    elif isinstance(value, list):
        for item in value:
            yield from _environment_problems(item)


def _camel(name: str) -> str:
    return name[:1].lower() + name[1:]
