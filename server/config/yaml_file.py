"""Options out of a --config file, each read by its option's type rather than by YAML's guess."""

from __future__ import annotations

import json
from typing import Any

import yaml

from headway.server.config.fields import Kind, Setting
from headway.server.config.given import Findings, Given, Origin, Source
from headway.server.config.names import Meaning, Names
from headway.server.config.places import Places
from headway.server.config.references import Place, Reference, location
from headway.server.config.values import BadValue, bad_value, checked, opposite, parse_text
from headway.server.config.yaml_document import Loader, composed, sentence_of

# To look for what each of thousands of wrong keys may have meant takes minutes.
_MAX_PROBLEMS = 20
_NULL = "tag:yaml.org,2002:null"


def read_yaml(path: str, names: Names, places: Places) -> Findings:
    """The options in the file ``path``, which may be a file:// or s3:// address; null means the option's default, whatever weaker
    sources say."""
    found = Findings(config_file=path)
    try:
        text = places.text(location(path) or Reference(Place.FILE, path))
    except BadValue as error:
        found.problems.append(f"--config: {error}")
        return found
    try:
        loader, root = composed(text)
    except BadValue as error:
        found.problems.append(f"--config {path}: {error}")
        return found
    if root is not None:
        _options(path, loader, root, names, found)
    return found


def _options(path: str, loader: Loader, root: yaml.MappingNode, names: Names, found: Findings) -> None:
    seen: dict[str, str] = {}
    for key_node, node in root.value:
        if len(found.problems) > _MAX_PROBLEMS:
            found.problems[_MAX_PROBLEMS:] = [f"--config {path}: has more problems than these; is it a file of options?"]
            return
        key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "?"
        where = f"YAML {path}:{key}"
        meaning = names.find(key)
        if meaning is None and names.is_met(key, _text(node)):
            continue
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
            found.problems.append(f"{where}: {sentence_of(error)}")
        else:
            found.given.append(Given(meaning.setting, value, Source(Origin.YAML, f"{path}:{key}")))


def _value(meaning: Meaning, loader: Loader, node: yaml.Node) -> Any:
    setting = meaning.setting
    if isinstance(node, yaml.ScalarNode):
        if node.tag == _NULL:
            return checked(setting, setting.default) if setting.option.secret else setting.default
        value = parse_text(setting, _scalar(node))
        return opposite(value) if meaning.negated else value
    if isinstance(node, yaml.SequenceNode) and setting.kind is Kind.LIST:
        return checked(setting, [_item(setting, loader, item) for item in node.value])
    if isinstance(node, yaml.MappingNode) and setting.kind is Kind.JSON:
        # Through JSON: what has no JSON form (a set, a binary) is no value of a JSON option.
        return json.loads(json.dumps(loader.construct_document(node), allow_nan=False))
    raise bad_value(setting, "a YAML " + ("list" if isinstance(node, yaml.SequenceNode) else "mapping"))


def _item(setting: Setting, loader: Loader, node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return json.dumps(loader.construct_document(node), ensure_ascii=False, allow_nan=False)
    if not isinstance(node, yaml.ScalarNode) or node.tag == _NULL:
        raise bad_value(setting, "a list with something else than texts in it")
    return _scalar(node)


def _text(node: yaml.Node) -> str:
    """What stands for a value of an option that is not taken: a scalar's text, and {} of an empty mapping."""
    return _scalar(node) if isinstance(node, yaml.ScalarNode) else "" if node.value else "{}"


def _scalar(node: yaml.ScalarNode) -> str:
    """A scalar's text. JSON writes a character beyond the 16-bit ones as two escapes, which PyYAML leaves as two."""
    return str(json.loads(json.dumps(node.value)))
