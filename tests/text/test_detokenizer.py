"""Streamed text equals the text decoded at once, whatever the tokens and the pieces they come in."""

from __future__ import annotations

from functools import cache

import pytest
from demo_model import demo_files
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizers import byte_level_tokenizer, sentencepiece_tokenizer

from headway.server.text.detokenizer import IncrementalDetokenizer
from headway.server.text.stop_strings import StopChecker
from headway.server.text.tokenizer import Tokenizer, load_tokenizer


@cache
def tokenizer_named(name: str) -> Tokenizer:
    if name == "demo":
        files = demo_files()
        return load_tokenizer(files, None, files.path.parent)
    return {"bytes": byte_level_tokenizer, "sentencepiece": sentencepiece_tokenizer}[name]()


def streamed(tokenizer: Tokenizer, ids: list[int], **options: object) -> str:
    detokenizer = IncrementalDetokenizer(tokenizer, **options)  # type: ignore[arg-type]
    text = "".join(detokenizer.push([token_id]).text for token_id in ids)
    return text + detokenizer.finish()


NAMES = ["demo", "bytes", "sentencepiece"]


@pytest.mark.parametrize("name", NAMES)
@given(text=st.text(max_size=80))
@settings(max_examples=150, deadline=None)
def test_any_text_streams_as_it_is(name: str, text: str) -> None:
    tokenizer = tokenizer_named(name)
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert streamed(tokenizer, ids, skip_special_tokens=False) == tokenizer.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("name", ["demo", "bytes"])
@given(data=st.data(), skip=st.booleans())
@settings(max_examples=200, deadline=None)
def test_any_tokens_stream_as_they_are(name: str, data: st.DataObject, skip: bool) -> None:
    tokenizer = tokenizer_named(name)
    # 20 ids past the vocabulary: models pad theirs.
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 20), max_size=60))
    assert streamed(tokenizer, ids, skip_special_tokens=skip) == tokenizer.decode(ids, skip_special_tokens=skip)


@given(ids=st.lists(st.one_of(st.integers(0, 2), st.integers(259, 290)), max_size=40), skip=st.booleans())
@settings(max_examples=200, deadline=None)
def test_any_pieces_stream_as_they_are(ids: list[int], skip: bool) -> None:
    tokenizer = tokenizer_named("sentencepiece")
    assert streamed(tokenizer, ids, skip_special_tokens=skip) == tokenizer.decode(ids, skip_special_tokens=skip)


@given(ids=st.lists(st.integers(0, 290), max_size=60))
@settings(max_examples=200, deadline=None)
def test_stray_byte_pieces_never_break_the_stream(ids: list[int]) -> None:
    """This decoder takes back whole characters when a stray byte follows; what went out can't be taken back, and stays."""
    tokenizer = tokenizer_named("sentencepiece")
    assert streamed(tokenizer, [*ids, *tokenizer.encode("the end", add_special_tokens=False)]).endswith("the end")


@given(ids=st.lists(st.sampled_from([0x80, 0xC3, 0xA9, 0xE2, 0x82, 0xAC, 0xF0, 0x9F, 0x98, 0x80, 0xFF, 0x41]), max_size=80))
@settings(max_examples=300, deadline=None)
def test_stray_bytes_stream_as_they_are(ids: list[int]) -> None:
    tokenizer = tokenizer_named("bytes")
    assert streamed(tokenizer, ids) == tokenizer.decode(ids)


def test_a_repeated_stray_byte_is_not_held_back() -> None:
    tokenizer = tokenizer_named("bytes")
    detokenizer = IncrementalDetokenizer(tokenizer)
    text = detokenizer.push([0xC3] * 1000).text
    assert 980 <= len(text) < 1000
    assert text + detokenizer.finish() == "\ufffd" * 1000


def test_no_part_of_a_character_is_emitted() -> None:
    tokenizer = tokenizer_named("bytes")
    detokenizer = IncrementalDetokenizer(tokenizer)
    assert [detokenizer.push([byte]).text for byte in "é😀".encode()] == ["", "é", "", "", "", "😀"]


def test_skipped_special_tokens_cost_nothing_and_show_nothing() -> None:
    tokenizer = tokenizer_named("bytes")
    eos = tokenizer.eos_token_id
    assert eos is not None
    detokenizer = IncrementalDetokenizer(tokenizer)
    assert detokenizer.push([eos] * 5000).num_tokens_used == 5000
    assert detokenizer._pending == []
    assert detokenizer.push([*b"x"]).text == "x"
    assert streamed(tokenizer, [*b"x", eos], skip_special_tokens=False) == "x<eos>"


def test_the_prompt_tail_keeps_the_first_blank() -> None:
    tokenizer = tokenizer_named("sentencepiece")
    prompt = tokenizer.encode("hello", add_special_tokens=False)
    word = tokenizer.token_to_id("▁the")
    assert word is not None
    assert streamed(tokenizer, [word]) == "the"
    assert streamed(tokenizer, [word, word], prompt_tail=prompt) == " the the"


def test_token_bytes_and_text() -> None:
    demo, pieces = tokenizer_named("demo"), tokenizer_named("sentencepiece")
    ids = demo.encode("Hello wörld 😀\n", add_special_tokens=False)
    assert b"".join(demo.token_bytes(token_id) for token_id in ids) == "Hello wörld 😀\n".encode()
    assert demo.token_text(905) == " world"
    assert demo.token_bytes(2) == b"<|im_end|>"
    assert demo.token_bytes(10**6) == b""
    assert pieces.token_bytes(3 + 0xF0) == b"\xf0"
    assert pieces.token_text(3 + 0xF0) == "\ufffd"
    assert pieces.token_text(pieces.token_to_id("▁the") or 0) == " the"


def stopped_at_once(text: str, stops: list[str], include: bool) -> tuple[str, str | None]:
    """The meaning: the stop string that is complete first; the longest of several with the same end."""
    for end in range(len(text) + 1):
        matches = [stop for stop in stops if stop and text[:end].endswith(stop)]
        if matches:
            stop = max(matches, key=len)
            return text[: end if include else end - len(stop)], stop
    return text, None


@given(
    pieces=st.lists(st.text("abc", max_size=5), max_size=12), stops=st.lists(st.text("abc", max_size=4), max_size=4), include=st.booleans()
)
@settings(max_examples=500, deadline=None)
def test_stop_strings_do_not_depend_on_the_pieces(pieces: list[str], stops: list[str], include: bool) -> None:
    checker = StopChecker(stops, include_stop=include)
    text = ""
    for piece in pieces:
        text += checker.push(piece)
        # Nothing that could belong to a stop string may be out, and nothing else may be held back.
        seen = "".join(pieces)
        assert seen.startswith(text) or checker.stopped_by
    text += checker.finish()
    assert (text, checker.stopped_by) == stopped_at_once("".join(pieces), stops, include)


@given(text=st.text("ab", max_size=30), stop=st.text("ab", min_size=1, max_size=5))
@settings(max_examples=200, deadline=None)
def test_only_the_beginning_of_a_stop_string_is_held(text: str, stop: str) -> None:
    checker = StopChecker([stop])
    out = "".join(checker.push(letter) for letter in text)
    if checker.stopped_by is None:
        held = text[len(out) :]
        assert stop.startswith(held)
        assert not any(stop.startswith(text[at:]) for at in range(len(out)))


@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("stop", ["lo w", "wör", "😀", "world", "\n\n"])
def test_stop_string_across_tokens_of_the_demo_model(stop: str, include: bool) -> None:
    tokenizer = tokenizer_named("demo")
    text = "Hello wörld, hello world 😀 and more.\n\nEnd"
    ids = tokenizer.encode(text, add_special_tokens=False)
    detokenizer = IncrementalDetokenizer(tokenizer, stop=[stop], include_stop=include)
    delta = detokenizer.push(ids)
    expected, by = stopped_at_once(text, [stop], include)
    assert (delta.text, delta.stopped_by) == (expected, by)
    assert detokenizer.finish() == ""
    # The tokens used are the fewest whose text holds the stop string.
    used = delta.num_tokens_used
    assert stop in tokenizer.decode(ids[:used])
    assert stop not in tokenizer.decode(ids[: used - 1])
    assert detokenizer.push(ids).num_tokens_used == 0


def test_min_tokens_bars_early_stop_strings() -> None:
    tokenizer = tokenizer_named("bytes")
    ids = [*b"a.b.c.d"]
    assert streamed(tokenizer, ids, stop=["."]) == "a"
    assert streamed(tokenizer, ids, stop=["."], min_tokens=2) == "a"
    assert streamed(tokenizer, ids, stop=["."], min_tokens=3) == "a.b"
    assert streamed(tokenizer, ids, stop=[".c."], min_tokens=5) == "a.b"
    assert streamed(tokenizer, ids, stop=["."], min_tokens=100) == "a.b.c.d"


def test_long_answers_are_looked_at_once() -> None:
    """A stop string that keeps almost matching must not make the held text grow."""
    checker = StopChecker(["aaaaab"])
    assert len(checker.push("a" * 100_000)) == 100_000 - 5
    assert checker.push("b") == ""
    assert checker.stopped_by == "aaaaab"


@pytest.mark.parametrize(("spaces", "text"), [(True, "<a> <b> word <b> <a>"), (False, "<a><b> word <b><a>")])
def test_blanks_between_special_tokens(spaces: bool, text: str) -> None:
    """A tokenizer without a decoder puts a blank between all tokens."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import models

    backend = Backend(models.WordLevel({"word": 0}, unk_token="word"))
    backend.add_special_tokens(["<a>", "<b>"])
    detokenizer = IncrementalDetokenizer(
        Tokenizer(backend, special_tokens={}), skip_special_tokens=False, spaces_between_special_tokens=spaces
    )
    assert detokenizer.push([1, 2, 0, 2, 1]).text + detokenizer.finish() == text


@pytest.mark.parametrize("end", ["\ufffd".encode(), "é".encode()[:1], "😀".encode()[:3], b"\x80", b"\xff\xff\xff\xff"])
def test_a_prompt_that_ends_within_a_character_is_not_repeated(end: bytes) -> None:
    tokenizer = byte_level_tokenizer()
    tail = [*b"secret", *end]
    detokenizer = IncrementalDetokenizer(tokenizer, prompt_tail=tail)
    assert detokenizer.push([*"né".encode()]).text + detokenizer.finish() == "né"
