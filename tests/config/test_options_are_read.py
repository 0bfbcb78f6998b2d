"""No option is declared and then ignored: each is read by code other than the checks of options."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from headway.server.config.fields import Setting
from headway.server.config.server import ServerConfig
from headway.server.config.sources import all_settings

ROOT = Path(__file__).resolve().parents[2]
CLASSES = {field.annotation.__name__: topic for topic, field in ServerConfig.model_fields.items() if field.annotation}


@cache
def reads() -> frozenset[tuple[str, str]]:
    """(topic, option) of each read, as `config.network.port` or through a name for the topic."""
    paths = [path for room in ("server", "entrypoint") for path in (ROOT / room).rglob("*.py")]
    return frozenset(found for path in paths for found in _reads_of(_WithoutChecks().visit(ast.parse(path.read_text()))))


class _WithoutChecks(ast.NodeTransformer):
    """Takes out what only checks options: to refuse a value is not to use it."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST | None:
        return None if node.name.rpartition("_")[2] in ("problems", "warnings") else self.generic_visit(node)


def _reads_of(tree: ast.Module) -> Iterator[tuple[str, str]]:
    topics = dict(_names_of_topics(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (topic := _topic(node.value, topics)):
            yield topic, node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr" and (topic := _topic(node.args[0], topics)):
            # By a name that stands somewhere in the module.
            yield from ((topic, str(text.value)) for text in ast.walk(tree) if isinstance(text, ast.Constant))


def _names_of_topics(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(name, topic) for `http = config.http`, for a parameter `http: HttpConfig`, and for a topic's own `self`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
            pairs = [(target, value)]
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                pairs = list(zip(target.elts, value.elts, strict=True))
            for name, source in pairs:
                if isinstance(name, ast.Name) and isinstance(source, ast.Attribute) and source.attr in CLASSES.values():
                    yield name.id, source.attr
        elif isinstance(node, ast.arg) and isinstance(node.annotation, ast.Name) and node.annotation.id in CLASSES:
            yield node.arg, CLASSES[node.annotation.id]
        elif isinstance(node, ast.ClassDef) and node.name in CLASSES:
            yield "self", CLASSES[node.name]


def _topic(node: ast.expr, names: dict[str, str]) -> str | None:
    if isinstance(node, ast.Name):
        return names.get(node.id)
    # self._lora, too: a topic that an object keeps.
    return node.attr.lstrip("_") if isinstance(node, ast.Attribute) and node.attr.lstrip("_") in CLASSES.values() else None


@pytest.mark.parametrize("setting", all_settings(), ids=lambda setting: setting.name)
def test_an_option_is_read(setting: Setting) -> None:
    assert (setting.topic, setting.name) in reads(), f"{setting.flag} is declared in server/config/{setting.topic}.py, and no code reads it"
