"""What is found when the end of a text has stood in it before."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headway.server.engine.speculative.ngram import NgramProposer


def propose(token_ids: list[int], num_drafts: int = 3, shortest: int = 2, longest: int = 4) -> list[int]:
    return NgramProposer(shortest, longest).propose("a", token_ids, num_drafts)


def test_what_followed_the_same_end_is_proposed() -> None:
    assert propose([1, 2, 3, 4, 5, 9, 1, 2]) == [3, 4, 5]
    assert propose([1, 2, 3, 4, 5, 9, 1, 2], num_drafts=1) == [3]


def test_a_longer_end_decides_between_places() -> None:
    assert propose([7, 1, 2, 3, 8, 1, 2, 4, 7, 1, 2]) == [3, 8, 1]


def test_of_equal_places_the_last_that_enough_follows() -> None:
    assert propose([1, 2, 3, 3, 3, 1, 2, 4, 4, 4, 9, 1, 2]) == [4, 4, 4]
    assert propose([5, 1, 1, 1, 1, 1, 1], num_drafts=2) == [1, 1]


def test_an_end_that_is_too_short_or_new_proposes_nothing() -> None:
    assert propose([1, 3, 2, 1]) == []
    assert propose([1, 3, 2, 1], shortest=1) == [3, 2, 1]
    assert propose([1]) == []


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 4), st.integers(0, 3), st.integers(1, 6))
def test_drafts_are_always_what_followed_the_longest_end(text: list[int], shortest: int, more: int, num_drafts: int) -> None:
    drafts = propose(text, num_drafts, shortest, shortest + more)
    lengths = {end: _length(text, end, shortest + more) for end in range(len(text) - 1)}
    longest = max(lengths.values(), default=0)
    if longest < shortest:
        assert drafts == []
    else:
        ends = [end for end, length in lengths.items() if length == longest]
        assert drafts in [text[end + 1 : end + 1 + num_drafts] for end in ends]
        assert len(drafts) == max(len(text[end + 1 : end + 1 + num_drafts]) for end in ends)


def _length(text: list[int], end: int, longest: int) -> int:
    """How many tokens up to ``end`` are as those at the end of the text."""
    length = 0
    while length < min(longest, end + 1) and text[end - length] == text[-1 - length]:
        length += 1
    return length


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=9), min_size=1, max_size=9))
def test_a_text_that_grows_is_searched_as_a_new_one(pieces: list[list[int]]) -> None:
    proposer, text = NgramProposer(1, 3), list[int]()
    for piece in pieces:
        text += piece
        assert proposer.propose("a", text, 3) == propose(text, 3, 1, 3)
