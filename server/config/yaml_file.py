"""Options out of a --config file, each read by its option's type rather than by YAML's guess."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from headway.server.config.fields import Kind, Setting
from headway.server.config.given import Findings, Given, Origin, Source
from headway.server.config.names import Meaning, Names
from headway.server.config.places import Places
from headway.server.config.references import Place, Reference, location
from headway.server.config.values import BadValue, bad_value, checked, parse_text

_NULL = "tag:yaml.org,2002:null"


class _Loader(yaml.SafeLoader):
    """Safe YAML without YAML 1.1's surprises: `no`, `on` and dates are texts, 010 is not eight, 1e5 is a number."""

    # Not Any of the base class: a table of our own, so that the base class' guesses stay out.
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+", list("-+.0123456789")),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def read_yaml(path: str, names: Names, places: Places) -> Findings:
    """The options in the file ``path``, which may be a file:// or s3:// address; null means the option's default, whatever weaker
    sources say."""
    found = Findings(config_file=path)
    try:
        loader = _Loader(places.text(location(path) or Reference(Place.FILE, path)))
        root = loader.get_single_node()
    except BadValue as error:
        found.problems.append(f"--config: {error}")
        return found
    except yaml.YAMLError as error:
        found.problems.append(f"--config {path}: is not valid YAML: {_where(error)}")
        return found
    if root is None:
        return found
    if not isinstance(root, yaml.MappingNode):
        found.problems.append(f"--config {path}: must hold a mapping of option names to values, such as `port: 8080`")
        return found
    _options(path, loader, root, names, found)
    return found


def _options(path: str, loader: _Loader, root: yaml.MappingNode, names: Names, found: Findings) -> None:
    seen: dict[str, str] = {}
    for key_node, node in root.value:
        key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "?"
        where = f"YAML {path}:{key}"
        meaning = names.find(key)
        if meaning is None:
            found.problems.append(f"{where}: {names.unknown(key, lambda near: near)}")
            continue
        name = meaning.setting.name
        if name in seen:
            twice = "twice" if seen[name] == key else f"as {seen[name]!r} too"
            found.problems.append(f"{where}: the file sets this option {twice}; keep one")
            continue
        seen[name] = key
        try:
            value = _value(meaning, loader, node)
        except BadValue as error:
            found.problems.append(f"{where}: {error}")
        except (yaml.YAMLError, TypeError, ValueError) as error:
            found.problems.append(f"{where}: {_where(error)}")
        else:
            found.given.append(Given(meaning.setting, value, Source(Origin.YAML, f"{path}:{key}")))


def _value(meaning: Meaning, loader: _Loader, node: yaml.Node) -> Any:
    setting = meaning.setting
    if isinstance(node, yaml.ScalarNode):
        if node.tag == _NULL:
            return checked(setting, setting.default) if setting.option.secret else setting.default
        value = parse_text(setting, _scalar(node))
        return (not value) if meaning.negated else value
    if isinstance(node, yaml.SequenceNode) and setting.kind is Kind.LIST:
        return checked(setting, [_item(setting, loader, item) for item in node.value])
    if isinstance(node, yaml.MappingNode) and setting.kind is Kind.JSON:
        # Through JSON: what has no JSON form (a set, a binary) is no value of a JSON option.
        return json.loads(json.dumps(loader.construct_document(node), allow_nan=False))
    raise bad_value(setting, "a YAML " + ("list" if isinstance(node, yaml.SequenceNode) else "mapping"))


def _item(setting: Setting, loader: _Loader, node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return json.dumps(loader.construct_document(node), ensure_ascii=False, allow_nan=False)
    if not isinstance(node, yaml.ScalarNode) or node.tag == _NULL:
        raise bad_value(setting, "a list with something else than texts in it")
    return _scalar(node)


def _scalar(node: yaml.ScalarNode) -> str:
    """A scalar's text. JSON writes a character beyond the 16-bit ones as two escapes, which PyYAML leaves as two."""
    return str(json.loads(json.dumps(node.value)))


def _where(error: Exception) -> str:
    """One line of an error of PyYAML, with the line number where it has one."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    return f"{problem} (line {mark.line + 1})" if mark else str(problem).replace("\n", " ")
