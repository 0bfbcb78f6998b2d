"""Cutting texts and pairs, held against the tokenizers library's own truncation."""

from __future__ import annotations

import random

import pytest
from tiny_tokenizers import byte_level_tokenizer
from tokenizers import Tokenizer as Backend
from tokenizers.processors import TemplateProcessing

from headway.server.text.fitted import Side, fitted_pairs, fitted_texts
from headway.server.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    tokenizer = byte_level_tokenizer()
    tokenizer.backend.post_processor = TemplateProcessing(
        single="<bos> $A <eos>", pair="<bos> $A <eos> $B:1 <eos>:1", special_tokens=[("<bos>", 261), ("<eos>", 262)]
    )
    return tokenizer


def truncating(tokenizer: Tokenizer, max_tokens: int, side: Side) -> Backend:
    backend: Backend = Backend.from_str(tokenizer.backend.to_str())
    backend.enable_truncation(max_tokens, direction=side)
    return backend


def word(rng: random.Random) -> str:
    return "".join(rng.choices("abcxyz ", k=rng.randint(1, 20)))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("max_tokens", [3, 7, 8, 50])
def test_as_the_library_cuts(tokenizer: Tokenizer, max_tokens: int, side: Side) -> None:
    rng = random.Random(max_tokens)
    theirs = truncating(tokenizer, max_tokens, side)
    firsts, seconds = [[word(rng) for _ in range(30)] for _ in range(2)]
    for text, fitted in zip(firsts, fitted_texts(tokenizer, firsts, max_tokens, side, add_special_tokens=True), strict=True):
        assert fitted.token_ids == theirs.encode(text).ids
    if max_tokens < 5:
        return  # a pair has three special tokens
    for first, second, fitted in zip(firsts, seconds, fitted_pairs(tokenizer, firsts, seconds, max_tokens, side), strict=True):
        expected = theirs.encode(first, second)
        assert fitted.token_ids == expected.ids
        assert fitted.num_first_segment == expected.type_ids.index(1)


def test_a_first_text_shared_by_pairs_is_cut_for_each_alone(tokenizer: Tokenizer) -> None:
    short, long = fitted_pairs(tokenizer, ["abcdefgh"] * 2, ["xxxxxxxx", "y"], 12, "right")
    assert tokenizer.decode(short.token_ids) == "abcdxxxxx"
    assert tokenizer.decode(long.token_ids) == "abcdefghy"


def test_the_second_text_alone_can_be_bounded(tokenizer: Tokenizer) -> None:
    (fitted,) = fitted_pairs(tokenizer, ["ab"], ["uvwxyz"], None, "right", max_second=2)
    assert tokenizer.decode(fitted.token_ids) == "abuv"


def test_less_room_than_special_tokens_take(tokenizer: Tokenizer) -> None:
    assert fitted_texts(tokenizer, ["abc"], 1, "right", add_special_tokens=True)[0].token_ids == [261, 262]
    assert fitted_texts(tokenizer, ["abc"], 1, "right", add_special_tokens=False)[0].token_ids == [97]
