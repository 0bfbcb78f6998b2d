"""Splitting and joining: no record is lost, doubled, reordered or put into a payload that is too long."""

from __future__ import annotations

import io
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.container.local.transform.records import TooLong, assembled, output_key, payloads, records, whole

LINES = st.lists(st.binary(max_size=12).filter(lambda line: b"\n" not in line and not line.endswith(b"\r")), max_size=30)


@given(LINES, st.booleans(), st.sampled_from([b"\n", b"\r\n"]))
def test_records_are_the_lines(lines: list[bytes], has_last_end: bool, end: bytes) -> None:
    content = end.join(lines) + (end if has_last_end else b"")
    assert list(records(io.BytesIO(content), 12)) == [line for line in lines if line]


@given(LINES.map(lambda lines: [line for line in lines if line]), st.integers(12, 60))
def test_multi_record_payloads(lines: list[bytes], most: int) -> None:
    made = list(payloads(lines, most, is_multi=True))
    assert b"\n".join(made).split(b"\n") == (lines or [b""])
    assert all(len(payload) <= most for payload in made)
    # None could have taken the first record of the next.
    assert all(len(now) + 1 + len(later.split(b"\n")[0]) > most for now, later in itertools.pairwise(made))


def test_single_record_payloads() -> None:
    assert list(payloads([b"a", b"b"], 100, is_multi=False)) == [b"a", b"b"]


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_the_longest_record(end: bytes) -> None:
    assert list(records(io.BytesIO(b"a\n" + b"x" * 5 + end), 5)) == [b"a", b"xxxxx"]
    with pytest.raises(TooLong, match="record 2"):
        list(records(io.BytesIO(b"a\n" + b"x" * 6 + end), 5))


def test_whole_objects() -> None:
    assert whole(io.BytesIO(b"a\nb\n"), 4) == b"a\nb\n"
    with pytest.raises(TooLong, match="the object"):
        whole(io.BytesIO(b"a\nb\n"), 3)


def test_assembly() -> None:
    assert [assembled(answer, True) for answer in (b"a", b"a\n", b"")] == [b"a\n", b"a\n", b"\n"]
    assert assembled(b"a", False) == b"a"


@pytest.mark.parametrize(
    ("key", "prefix", "wanted"),
    [
        ("in/a.jsonl", "in/", "a.jsonl.out"),
        ("in/a.jsonl", "in", "in/a.jsonl.out"),
        ("in/sub/a.jsonl", "in/", "sub/a.jsonl.out"),
        ("in/a.jsonl", "in/a.jsonl", "a.jsonl.out"),
        ("a.jsonl", "", "a.jsonl.out"),
    ],
)
def test_where_output_goes(key: str, prefix: str, wanted: str) -> None:
    assert output_key(key, prefix) == wanted
