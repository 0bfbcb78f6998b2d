"""Realistic JSON schemas by seed, in the categories of JSONSchemaBench (Geng et al. 2025): function calls, configurations of Kubernetes
and GitHub kind, and what each keyword is used for. No package ships the benchmark's own files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

Schema = dict[str, Any]

_NAMES = """
    name id kind status owner region image port path query unit city country label version limit count total price email url
    token created updated enabled replicas memory cpu timeout retries branch event steps runs author title body tags score
    rank mode level
"""
_WORDS = _NAMES.split()
_PATTERNS = (
    r"^[a-z]{2,8}$",
    r"^[A-Z]{3}-\d{2,4}$",
    r"^v\d+\.\d+\.\d+$",
    r"^#[0-9a-f]{6}$",
    r"^(\+\d{1,2} )?\d{3}-\d{4}$",
    r"^[a-z0-9]([-a-z0-9]{0,10}[a-z0-9])?$",
    r"^\d+(ms|s|m|h)$",
    r"^(low|medium|high)-risk$",
)
_FORMATS = ("date", "date-time", "time", "email", "ipv4", "ipv6", "uuid", "hostname")


def make_schemas(count: int, seed: int = 0) -> Iterator[tuple[str, Schema]]:
    """(category, schema), the categories in turn."""
    random = Random(seed)
    categories = list(CATEGORIES.items())
    for index in range(count):
        name, make = categories[index % len(categories)]
        yield name, {"$schema": "https://json-schema.org/draft/2020-12/schema", **make(random)}


def _names(random: Random, least: int, most: int) -> list[str]:
    return random.sample(_WORDS, random.randint(least, most))


def _object(random: Random, properties: dict[str, Schema], *, share: float = 0.7, **more: Any) -> Schema:
    """``share`` of the properties are required."""
    required = [name for name in properties if random.random() < share]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False, **more}


def _text(random: Random) -> Schema:
    return random.choice(
        [
            {"type": "string"},
            {"type": "string", "maxLength": random.randint(1, 30)},
            {"type": "string", "minLength": 1, "maxLength": random.randint(2, 20), "description": "Shown to the user."},
            {"enum": random.sample(_WORDS, random.randint(1, 6))},
        ]
    )


def _number(random: Random) -> Schema:
    low = random.randint(-50, 50)
    return random.choice(
        [
            {"type": "integer", "minimum": low, "maximum": low + random.randint(0, 1000)},
            {"type": "integer", "exclusiveMinimum": low},
            {"type": "number", "minimum": low + 0.5, "maximum": low + random.randint(1, 9)},
            {"type": "number", "exclusiveMaximum": low},
            {"type": "integer", "multipleOf": random.choice([2, 5, 10])},
            {"type": "integer", "minimum": 1, "maximum": 65535, "default": 80},
        ]
    )


def _leaf(random: Random) -> Schema:
    return random.choice([_text, _text, _number, _format, _pattern, lambda _: {"type": "boolean"}, lambda _: {"type": ["string", "null"]}])(
        random
    )


def _format(random: Random) -> Schema:
    return {"type": "string", "format": random.choice(_FORMATS)}


def _pattern(random: Random) -> Schema:
    return {"type": "string", "pattern": random.choice(_PATTERNS)}


def _array(random: Random, items: Schema) -> Schema:
    least = random.randint(0, 2)
    return {"type": "array", "items": items, "minItems": least, "maxItems": least + random.randint(0, 3)}


def function_call(random: Random) -> Schema:
    """The arguments of a function, as tools describe them."""
    return _object(random, {name: _leaf(random) | {"description": f"The {name} to use."} for name in _names(random, 1, 5)})


def kubernetes(random: Random) -> Schema:
    labels = {"type": "object", "additionalProperties": {"type": "string", "maxLength": 8}, "maxProperties": 2}
    container = _object(
        random,
        {
            "name": _pattern(random),
            "image": {"type": "string", "maxLength": 20},
            "ports": _array(random, _object(random, {"containerPort": {"type": "integer", "minimum": 1, "maximum": 65535}}, share=1)),
            "resources": _object(random, {"limits": _object(random, {"cpu": {"type": ["string", "integer"]}, "memory": _pattern(random)})}),
        },
        share=0.8,
    )
    metadata = _object(random, {"name": _pattern(random)} | ({"labels": labels} if random.random() < 0.3 else {}), share=1)
    spec = _object(random, {"replicas": _number(random), "containers": _array(random, container)}, share=1)
    kinds = random.sample(["Pod", "Deployment", "Service", "Job"], 2)
    return _object(random, {"apiVersion": {"const": "v1"}, "kind": {"enum": kinds}, "metadata": metadata, "spec": spec}, share=1)


def github(random: Random) -> Schema:
    """A workflow: alternatives of short and long form, objects by name."""
    step = {"anyOf": [_object(random, {"uses": _text(random)}, share=1), _object(random, {"run": _text(random)}, share=1)]}
    job = _object(random, {"runs-on": {"enum": ["ubuntu-latest", "macos-14"]}, "steps": _array(random, step)}, share=1)
    events = {"anyOf": [{"enum": ["push", "pull_request"]}, _array(random, {"enum": ["push", "release", "schedule"]})]}
    jobs = {"type": "object", "patternProperties": {"^[a-z]{1,8}$": job}, "additionalProperties": False}
    return _object(random, {"name": _text(random), "on": events, "jobs": jobs}, share=1)


def enums(random: Random) -> Schema:
    values = [*random.sample(_WORDS, 3), random.randint(0, 99), True, None, 1.5, {"a": [1]}]
    return _object(random, {name: {"enum": random.sample(values, random.randint(1, 6))} for name in _names(random, 1, 5)})


def nested(random: Random, depth: int = 4) -> Schema:
    if depth == 0:
        return _leaf(random)
    return _object(random, {name: nested(random, random.randint(0, depth - 1)) for name in _names(random, 1, 3)}, share=0.8)


def arrays(random: Random) -> Schema:
    return random.choice(
        [
            _array(random, _leaf(random)),
            _array(random, _array(random, _number(random))),
            {"type": "array", "prefixItems": [_leaf(random), _leaf(random)], "items": False, "minItems": 2},
            {"type": "array", "items": _object(random, {name: _leaf(random) for name in _names(random, 1, 3)}), "maxItems": 3},
            {"type": "array", "items": _number(random), "uniqueItems": True, "maxItems": 3},
        ]
    )


def any_of(random: Random) -> Schema:
    kinds = _names(random, 2, 4)
    branches = [_object(random, {"kind": {"const": kind}, "value": _leaf(random)}, share=1) for kind in kinds]
    union = random.choice([{"anyOf": branches}, {"oneOf": branches}, {"anyOf": [*branches, {"type": "null"}]}])
    return _object(random, {"item": union, "other": {"anyOf": [{"type": "boolean"}, {"type": "null"}]}}, share=1)


def refs(random: Random) -> Schema:
    node = _object(random, {"value": _leaf(random), "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}}, share=1)
    place = _object(random, {name: _leaf(random) for name in _names(random, 1, 3)}, share=1)
    tree = _object(random, {"root": {"$ref": "#/$defs/node"}, "place": {"$ref": "#/$defs/place"}}, share=1)
    return {"$defs": {"node": node, "place": place}, **tree}


def patterns(random: Random) -> Schema:
    return _object(random, {name: _pattern(random) for name in _names(random, 1, 4)}, share=1)


def formats(random: Random) -> Schema:
    return _object(random, {name: _format(random) for name in _names(random, 1, 4)}, share=1)


def numbers(random: Random) -> Schema:
    return _object(random, {name: _number(random) for name in _names(random, 1, 5)}, share=1)


def constants(random: Random) -> Schema:
    values: list[Any] = ["fixed", 7, -0.5, False, None, [1, "two"], {"deep": {"er": []}}, 'a "quoted" \\ text\n']
    return _object(random, {name: {"const": random.choice(values)} for name in _names(random, 1, 4)}, share=1)


def additional(random: Random) -> Schema:
    """Objects with names of the model's own."""
    extra = {"type": "object", "additionalProperties": random.choice([{"type": "integer"}, {"type": "boolean"}, {"maxLength": 4}])}
    known = {"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"], "additionalProperties": _number(random)}
    return _object(random, {"extra": extra, "known": known}, share=0.8)


def subsets(random: Random) -> Schema:
    """Many properties of which few are required."""
    return _object(random, {name: _leaf(random) for name in _names(random, 6, 12)}, share=0.2)


def combined(random: Random) -> Schema:
    first = _object(random, {name: _leaf(random) for name in _names(random, 1, 2)}, share=1)
    rest = {"type": "object", "properties": {"extra": _leaf(random)}, "required": ["extra"]}
    return {"allOf": [{key: value for key, value in first.items() if key != "additionalProperties"}, rest]} | random.choice(
        [{}, {"minProperties": 1}, {"description": "Both of them."}, {"not": {"required": ["never"]}}]
    )


CATEGORIES: dict[str, Callable[[Random], Schema]] = {
    make.__name__: make
    for make in (
        function_call,
        kubernetes,
        github,
        enums,
        nested,
        arrays,
        any_of,
        refs,
        patterns,
        formats,
        numbers,
        constants,
        additional,
        subsets,
        combined,
    )
}
