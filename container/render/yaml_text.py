"""YAML that every reader takes for the same values, and comments where people need them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

# What YAML 1.1 and 1.2 both take for a text. 0o17, 1_000, y and so on mean other things to one of them: they are quoted.
_PLAIN = re.compile(r"[a-zA-Z][a-zA-Z0-9_./-]+", re.ASCII)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        """Values that are equal are written out each time."""
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=None if _PLAIN.fullmatch(value) else '"')


_Dumper.add_representer(str, _text)


def document(content: Mapping[str, Any], comment: str = "") -> str:
    """``comment``: lines above it, of our own words only."""
    head = "".join(f"# {line}".rstrip() + "\n" for line in comment.splitlines())
    return head + yaml.dump(dict(content), Dumper=_Dumper, sort_keys=False, width=2**31, default_flow_style=False)
