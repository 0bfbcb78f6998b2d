"""Recorded answers of each family give the same content and calls however they are split."""

from __future__ import annotations

from itertools import pairwise

import pytest
import tool_texts_json
import tool_texts_python
import tool_texts_tokens
import tool_texts_xml
from hypothesis import given, settings
from hypothesis import strategies as st
from tool_texts import TOOLS, Recorded, Said, said

from headway.server.text.tools.registry import TOOL_PARSERS, make_tool_parser

TEXTS = [*tool_texts_json.TEXTS, *tool_texts_tokens.TEXTS, *tool_texts_python.TEXTS, *tool_texts_xml.TEXTS]


def read(recorded: Recorded, pieces: list[str]) -> Said:
    return said(make_tool_parser(recorded.parser, TOOLS), pieces)


@pytest.mark.parametrize("recorded", TEXTS, ids=str)
def test_split_at_every_character(recorded: Recorded) -> None:
    text = recorded.text
    expected = Said(recorded.content, list(recorded.calls))
    assert read(recorded, [text]) == expected
    assert read(recorded, list(text)) == expected
    for at in range(1, len(text)):
        assert read(recorded, [text[:at], text[at:]]) == expected, f"split at {at}: {text[:at]!r}"


@pytest.mark.parametrize("name", sorted(TOOL_PARSERS))
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_split_anyhow(name: str, data: st.DataObject) -> None:
    """Texts of all families behind each other, cut and changed anywhere: the pieces never matter."""
    text = data.draw(st.lists(st.sampled_from(TEXTS), min_size=1, max_size=3).map(lambda some: "".join(one.text for one in some)))
    begin, end = sorted((data.draw(st.integers(0, len(text))), data.draw(st.integers(0, len(text)))))
    text = text[:begin] + data.draw(st.text("{}[]<>\"\\'`,:;()=\n ax", max_size=3)) + text[end:]
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=12)) | {0, len(text)})
    whole = said(make_tool_parser(name, TOOLS), [text])
    pieces = [text[start:stop] for start, stop in pairwise(cuts)]
    assert said(make_tool_parser(name, TOOLS), pieces) == whole
    assert said(make_tool_parser(name, TOOLS), list(text)) == whole
