"""A --config file's text as YAML nodes: one mapping, of a size and with tags that a config file can have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from headway.server.config.values import BadValue

# A chat template of 100 KiB fits. PyYAML reads some 0.2 MiB a second (2026-11), so this is also an end to how long a start can take.
MAX_CHARS = 512 * 1024
# With every alias written out: nine lines of aliases can stand for a billion nodes.
MAX_NODES = 20_000
_STANDARD = "tag:yaml.org,2002:"
_TAGS = frozenset(_STANDARD + name for name in ("null", "bool", "int", "float", "str", "seq", "map", "merge"))


class Loader(yaml.SafeLoader):
    """Safe YAML without YAML 1.1's surprises: `no`, `on` and dates are texts, 010 is not eight, 1e5 is a number."""

    # Not Any of the base class: a table of our own, so that the base class' guesses stay out.
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Keys are texts as they are written: what they end up in is JSON."""
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != f"{_STANDARD}merge":
                key.tag = f"{_STANDARD}str"
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+", list("-+.0123456789")),
    ("merge", r"<<", ["<"]),
):
    Loader.add_implicit_resolver(f"{_STANDARD}{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def composed(text: str) -> tuple[Loader, yaml.MappingNode | None]:
    """The mapping in ``text``, None in an empty file, and what makes values of its nodes. Raises BadValue, one sentence."""
    if len(text) > MAX_CHARS:
        raise BadValue(f"has {len(text)} characters; a file of options has {MAX_CHARS} at most")
    try:
        loader = Loader(text)
        root = loader.get_single_node()
    except yaml.YAMLError as error:
        raise BadValue(f"is not valid YAML: {sentence_of(error)}") from error
    except RecursionError as error:
        raise BadValue("is nested too deeply for a file of options") from error
    if root is None:
        return loader, None
    if not isinstance(root, yaml.MappingNode):
        raise BadValue("must hold a mapping of option names to values, such as `port: 8080`")
    _check_tags(root)
    if _written_out(root, {}) > MAX_NODES:
        raise BadValue(f"stands for more than {MAX_NODES} values, aliases (*name) written out; a file of options holds fewer")
    return loader, root


def sentence_of(error: Exception) -> str:
    """One line of an error of PyYAML, with the line number where it has one."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    return f"{problem} (line {mark.line + 1})" if mark else str(problem).replace("\n", " ")


def _check_tags(root: yaml.Node) -> None:
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if node.tag not in _TAGS:
            tag = node.tag.replace(_STANDARD, "!!")
            raise BadValue(f"has the tag {tag} (line {node.start_mark.line + 1}), and only plain values are read; leave the tag out")
        waiting += _children(node)


def _written_out(node: yaml.Node, sizes: dict[int, int]) -> int:
    """How many nodes ``node`` is with every alias in it replaced by what it stands for. Raises BadValue if it holds itself.

    ``sizes`` are those known already, by id; 0 while a node is being looked at. No deeper than the composer itself went.
    """
    if id(node) in sizes:
        if not sizes[id(node)]:
            raise BadValue(f"has a value that holds itself (line {node.start_mark.line + 1}); write it out, without an alias")
        return sizes[id(node)]
    sizes[id(node)] = 0
    sizes[id(node)] = 1 + sum(_written_out(child, sizes) for child in _children(node))
    return sizes[id(node)]


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key
            yield value
