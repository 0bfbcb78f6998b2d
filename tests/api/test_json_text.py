"""JSON that readers by lines, and strict decoders, take."""

from __future__ import annotations

import json
from typing import Any

import pytest

from headway.server.api.json_text import encode

LINE_ENDS = [chr(code) for code in range(0x110000) if len(f"a{chr(code)}b".splitlines()) > 1]


@pytest.mark.parametrize("end", LINE_ENDS, ids=ascii)
def test_no_line_ends_within(end: str) -> None:
    value = {f"k{end}": [f"a{end}b{end}", {"x": end}]}
    text = encode(value)
    assert text.decode().splitlines() == [text.decode()]
    assert json.loads(text) == value


@pytest.mark.parametrize("value", ["plain", "“quotes” – dashes…", "\u2027\u202a\x7f", "Â\u2005 \xc3\x86"])
def test_other_text_stays_as_it_is(value: str) -> None:
    assert json.loads(encode(value)) == value
    assert encode(value) == json.dumps(value, ensure_ascii=False).encode()


HALVES: list[tuple[Any, Any]] = [
    ("a\ud83d", "a?"),
    ({"\ude00": ["\u2028\ud800", 1, None, True]}, {"?": ["\u2028?", 1, None, True]}),
]


@pytest.mark.parametrize(("value", "told"), HALVES, ids=ascii)
def test_half_a_surrogate_pair_ends_no_answer(value: Any, told: Any) -> None:
    text = encode(value)
    assert json.loads(text.decode("utf-8", "strict")) == told
    assert len(text.decode().splitlines()) == 1
