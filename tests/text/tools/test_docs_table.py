"""docs/tool_parsers.md lists the parsers that there are, with what their functions say of themselves."""

from __future__ import annotations

import importlib
from pathlib import Path

from headway.server.text.tools import registry

PAGE = Path(__file__).resolve().parents[3] / "docs" / "tool_parsers.md"


def table() -> str:
    names: dict[str, list[str]] = {}
    for name, function in registry.TOOL_PARSERS.items():
        names.setdefault(function, []).append(f"`{name}`")
    rows = ["| `--tool-call-parser` | models, and what they write |", "|---|---|"]
    for function, some in sorted(names.items(), key=lambda item: item[1]):
        module, attribute = function.split(":")
        doc = getattr(importlib.import_module(f"headway.server.text.tools.{module}"), attribute).__doc__
        rows.append(f"| {', '.join(some)} | {doc.replace('|', chr(92) + '|')} |")
    return "\n".join(rows)


def test_the_table_is_as_the_parsers_are() -> None:
    begin, end = "<!-- parsers -->\n", "\n<!-- /parsers -->"
    text = PAGE.read_text(encoding="utf-8")
    assert text[text.index(begin) + len(begin) : text.index(end)].strip() == table()
