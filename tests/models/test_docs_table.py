"""docs/models.md lists the families that generate text, with what their modules say of themselves."""

from __future__ import annotations

import importlib
from pathlib import Path

from headway.server.models.registry import ARCHITECTURES, GGUF_ARCHITECTURES, GGUF_MIXTURES, GGUF_SIGMOID_MIXTURES
from headway.server.models.transformers_config import known_classes, refused_classes

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"


def table() -> str:
    rows = ["| family | `architectures` of config.json | GGUF |", "|---|---|---|"]
    for module in dict.fromkeys(ARCHITECTURES.values()):
        doc = (importlib.import_module(module).__doc__ or "").partition("\n")[0]
        names, *ggufs = (
            ", ".join(f"`{name}`" for name, own in known.items() if own == module)
            for known in (ARCHITECTURES, GGUF_ARCHITECTURES, GGUF_MIXTURES, GGUF_SIGMOID_MIXTURES)
        )
        rows.append(f"| {doc} | {names} | {''.join(ggufs)} |")
    return "\n".join(rows)


def test_the_table_is_as_the_registry_is() -> None:
    begin, end = "<!-- families -->\n", "\n<!-- /families -->"
    text = PAGE.read_text(encoding="utf-8")
    assert text[text.index(begin) + len(begin) : text.index(end)].strip() == table()


def test_the_classes_of_transformers_are_those_of_the_table() -> None:
    begin, end = "<!-- classes -->\n", "\n<!-- /classes -->"
    text = PAGE.read_text(encoding="utf-8")
    listed = text[text.index(begin) + len(begin) : text.index(end)]
    assert " ".join(listed.split()) == ", ".join(f"`{name}`" for name in known_classes() if name not in ARCHITECTURES) + "."


def test_what_is_not_served_through_transformers_is_listed_by_reason() -> None:
    begin, end = "<!-- refused -->\n", "\n<!-- /refused -->"
    text = PAGE.read_text(encoding="utf-8")
    reasons: dict[str, list[str]] = {}
    for name, why in refused_classes().items():
        if name not in ARCHITECTURES:
            reasons.setdefault(why, []).append(f"`{name}`")
    rows = [f"| {why} | {', '.join(names)} |" for why, names in sorted(reasons.items())]
    assert text[text.index(begin) + len(begin) : text.index(end)].splitlines()[2:] == rows
