"""Structural tags: text that is free but for what stands between given marks. Two notations, both translated to Lark.

vLLM's first one lists ``structures`` (begin, schema, end) and ``triggers``; the later one is a tree of formats, as in xgrammar.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

Parts = dict[str, Any]
_ANY_TEXT = r"/(?s:.*)/"


class _Format(msgspec.Struct, tag_field="type", forbid_unknown_fields=True, frozen=True):
    """One node of the tree."""


class _ConstString(_Format, tag="const_string", frozen=True):
    value: str


class _JsonSchema(_Format, tag="json_schema", frozen=True):
    json_schema: dict[str, Any] | bool


class _AnyText(_Format, tag="any_text", frozen=True):
    pass


class _Regex(_Format, tag="regex", frozen=True):
    pattern: str


class _Grammar(_Format, tag="grammar", frozen=True):
    grammar: str


class _Sequence(_Format, tag="sequence", frozen=True):
    elements: list[AnyFormat]


class _Or(_Format, tag="or", frozen=True):
    elements: list[AnyFormat]


class _Optional(_Format, tag="optional", frozen=True):
    content: AnyFormat


class _Plus(_Format, tag="plus", frozen=True):
    content: AnyFormat


class _Star(_Format, tag="star", frozen=True):
    content: AnyFormat


class _Tag(_Format, tag="tag", frozen=True):
    begin: str
    content: AnyFormat
    end: str


class _TriggeredTags(_Format, tag="triggered_tags", frozen=True):
    triggers: list[str]
    tags: list[_Tag]
    at_least_one: bool = False
    stop_after_first: bool = False


class _TagsWithSeparator(_Format, tag="tags_with_separator", frozen=True):
    tags: list[_Tag]
    separator: str
    at_least_one: bool = False
    stop_after_first: bool = False


AnyFormat = (
    _ConstString
    | _JsonSchema
    | _AnyText
    | _Regex
    | _Grammar
    | _Sequence
    | _Or
    | _Optional
    | _Plus
    | _Star
    | _Tag
    | _TriggeredTags
    | _TagsWithSeparator
)


class _Structure(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    begin: str
    schema: dict[str, Any] | bool
    end: str


class _StructuralTag(msgspec.Struct, tag="structural_tag", forbid_unknown_fields=True, frozen=True):
    format: AnyFormat | None = None
    structures: list[_Structure] = []
    triggers: list[str] = []


def parts_of_tag(source: str, *, special: Mapping[str, int], written: Callable[[Any], Any], lark_of: Callable[[str], str]) -> list[Parts]:
    """The grammars, the first one is the start, that a structural tag's JSON stands for.

    ``special`` are tokens that no text holds, and their ids. ``written`` completes a JSON schema, ``lark_of`` translates a grammar.
    Raises ValueError.
    """
    tag = msgspec.json.decode(source, type=_StructuralTag)  # its ValidationError is a ValueError
    if (tag.format is None) == (not tag.structures):
        raise ValueError("a structural tag has either a format, or structures with triggers")
    root = tag.format or _TriggeredTags(tag.triggers, [_Tag(one.begin, _JsonSchema(one.schema), one.end) for one in tag.structures])
    lark = _Lark(special, written, lark_of)
    start = lark.body(root)
    return [{"name": "structural_tag", "lark_grammar": "\n".join([f"start: {start}", *lark.rules])}, *lark.others]


class _Lark:
    """Collects rules while a tree is walked. What ``body`` returns may stand in any rule, in parentheses where it must."""

    def __init__(self, special: Mapping[str, int], written: Callable[[Any], Any], lark_of: Callable[[str], str]) -> None:
        self.rules: list[str] = []
        self.others: list[Parts] = []
        self._special = special
        self._marks = re.compile("(" + "|".join(map(re.escape, sorted(special, key=len, reverse=True))) + ")") if special else None
        self._written = written
        self._lark_of = lark_of

    def body(self, node: AnyFormat) -> str:
        match node:
            case _ConstString(value=value):
                return self._literal(value)
            case _JsonSchema(json_schema=schema):
                return self._rule("%json " + json.dumps(self._written(schema), ensure_ascii=False))
            case _AnyText():
                return self._rule(_ANY_TEXT)
            case _Regex(pattern=pattern):
                from llguidance import regex_to_lark

                return self._rule(f"/{regex_to_lark(pattern, '')}/")
            case _Grammar(grammar=grammar):
                self.others.append({"name": f"grammar_{len(self.others)}", "lark_grammar": self._lark_of(grammar)})
                return "@" + str(self.others[-1]["name"])
            case _Sequence(elements=elements):
                return self._sequence(elements)
            case _Or(elements=elements):
                return self._any(map(self.body, elements))
            case _Optional(content=content):
                return f"({self.body(content)})?"
            case _Plus(content=content):
                return f"({self.body(content)})+"
            case _Star(content=content):
                return f"({self.body(content)})*"
            case _Tag():
                return f"{self._literal(node.begin)} {self._content(node)}"
            case _TriggeredTags():
                return self._triggered(node)
            case _TagsWithSeparator():
                return self._separated(node)

    def _sequence(self, elements: Sequence[AnyFormat]) -> str:
        if any(isinstance(element, _AnyText) for element in elements[:-1]):
            raise ValueError("any_text can only be the last of a sequence, or the content of a tag, whose end ends it")
        return "(" + " ".join(map(self.body, elements)) + ")"

    def _content(self, tag: _Tag) -> str:
        """What follows a tag's beginning."""
        if isinstance(tag.content, _AnyText) and tag.end and self._literal(tag.end).startswith('"'):
            return self._rule(_ANY_TEXT, f"[suffix={json.dumps(tag.end, ensure_ascii=False)}]")
        return f"{self.body(tag.content)} {self._literal(tag.end)}"

    def _triggered(self, node: _TriggeredTags) -> str:
        if not node.triggers or not node.tags:
            raise ValueError("structural tags that are triggered need triggers and tags, or structures")
        one = self._any(self._triggered_tag(tag, node.triggers) for tag in node.tags)
        if node.stop_after_first:
            return one if node.at_least_one else self._any([one, self._rule(_ANY_TEXT)])
        return f"({one}{'+' if node.at_least_one else '*'} {self._rule(_ANY_TEXT)})"

    def _triggered_tag(self, tag: _Tag, triggers: Sequence[str]) -> str:
        """Free text up to a trigger, then the rest of the tag that it begins."""
        trigger = next((trigger for trigger in triggers if trigger and tag.begin.startswith(trigger)), None)
        if trigger is None:
            raise ValueError(f"no trigger begins the tag {tag.begin!r}: add one, such as the tag's beginning itself")
        mark, rest = self._literal(trigger), self._literal(tag.begin.removeprefix(trigger))
        lazy = "[lazy]" if mark.startswith('"') else ""  # a special token is no text, which so ends before it
        head = self._rule(f"{_ANY_TEXT} {mark}", lazy)
        return self._rule(f"{head} {rest} {self._content(tag)}")

    def _separated(self, node: _TagsWithSeparator) -> str:
        if not node.tags:
            raise ValueError("tags_with_separator needs tags")
        one = self._any(map(self.body, node.tags))
        many = one if node.stop_after_first else f"({one} ({self._literal(node.separator)} {one})*)"
        return many if node.at_least_one else f"{many}?"

    def _any(self, bodies: Any) -> str:
        found = list(bodies)
        if not found:
            raise ValueError("or needs elements")
        return self._rule(" | ".join(found))

    def _literal(self, text: str) -> str:
        """A text in which special tokens are themselves; nothing for an empty one."""
        pieces = self._marks.split(text) if self._marks else [text]
        return " ".join(
            f"<[{self._special[piece]}]>" if piece in self._special else json.dumps(piece, ensure_ascii=False) for piece in pieces if piece
        )

    def _rule(self, body: str, attributes: str = "") -> str:
        name = f"part_{len(self.rules)}"
        self.rules.append(f"{name}{attributes}: {body}")
        return name
