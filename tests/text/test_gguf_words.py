"""Tokenizers of GGUF files split words as those of the models that they were made from."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from gguf_tokenizer_files import write_gguf_tokenizer

from headway.server.errors import ModelSourceError
from headway.server.source.files import ModelFiles
from headway.server.text.gguf_tokenizer import gguf_eos_token_ids, load_gguf_tokenizer, read_tokenizer_metadata
from headway.server.text.gguf_words import word_rules
from headway.server.text.tokenizer import load_tokenizer

TEXT = (
    "He said: I'VE 12345 things, don't you?  \n\n\tdef f(x_1):\r\n    return x**2 / 3.14159  // naïve CamelCase HTTPServer\n"
    "你好，世界 かな カナ 한국어 Привет мир ½ ² Ⅷ 😀👍🏽 ... ------=== `````` !!!??  \u3000 end "
)


@pytest.fixture(scope="module")
def trained() -> dict[str, Any]:
    """A small vocabulary, whose merges cross all bounds that splitters know."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=420, min_frequency=1, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([TEXT[i : i + 5] for i in range(len(TEXT))] * 2, trainer)
    model: dict[str, Any] = json.loads(backend.to_str())["model"]
    return model


def written(trained: dict[str, Any], path: Path, pre: str) -> ModelFiles:
    merges = [" ".join(merge) for merge in trained["merges"]]
    tokens = sorted(trained["vocab"], key=trained["vocab"].__getitem__)
    return write_gguf_tokenizer(path, [*tokens, "<eos>", "<turn>"], merges, pre, num_special=2)


@pytest.mark.parametrize("pre", ["llama-bpe", "dbrx", "qwen2", "tekken", "gpt-4o"])
def test_same_tokens_as_the_reader_of_transformers(trained: dict[str, Any], tmp_path: Path, pre: str) -> None:
    from transformers import AutoTokenizer

    ours = load_tokenizer(written(trained, tmp_path / "m.gguf", pre), None, Path("/nonexistent"))
    theirs = AutoTokenizer.from_pretrained(str(tmp_path), gguf_file="m.gguf")
    assert ours.encode(TEXT, add_special_tokens=False) == theirs(TEXT, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(("pre", "name"), [("qwen2", "Qwen2Tokenizer"), ("command-r", "CohereTokenizer")])
def test_same_tokens_as_the_class_of_the_model(trained: dict[str, Any], tmp_path: Path, pre: str, name: str) -> None:
    """Which puts letters and their marks together first."""
    import transformers

    ours = load_tokenizer(written(trained, tmp_path / "m.gguf", pre), None, Path("/nonexistent"))
    own = getattr(transformers, name)(vocab=dict(trained["vocab"]), merges=[tuple(merge) for merge in trained["merges"]])
    for text in (TEXT, unicodedata.normalize("NFD", TEXT)):
        assert ours.encode(text, add_special_tokens=False) == own(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("deepseek-llm", ["Hello", " WORLD", "'", "s", " ", "12345", " (", "你好", "abc", "!)", "\n", "\n", " ", " x"]),
        ("deepseek-coder", ["Hello", " WORLD", "'", "s", " ", "1", "2", "3", "4", "5", " (", "你好", "abc", "!)", "\n", "\n", " ", " x"]),
        ("deepseek-v3", ["Hello", " WORLD", "'s", " ", "123", "45", " (", "你好", "abc", "!)\n\n", " ", " x"]),
        ("kimi-k2", ["Hello", " WORLD's", " ", "123", "45", " (", "你好", "abc", "!)\n\n", " ", " x"]),
        ("refact", ["Hello", " WORLD", "'s", " ", "1", "2", "3", "4", "5", " (", "你好abc", "!)", "\n\n ", " x"]),
        ("gpt-2", ["Hello", " WORLD", "'s", " 12345", " (", "你好abc", "!)", "\n\n ", " x"]),
    ],
)
def test_pieces_between_which_nothing_is_merged(pre: str, pieces: list[str]) -> None:
    """deepseek-v3's were held against those of DeepSeek-V3's own tokenizer.json on 3,000 random texts and 230,000 characters (2026-11)."""
    rules = word_rules(pre)
    assert rules is not None
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    rules.apply_to(backend)
    text = "Hello WORLD's 12345 (你好abc!)\n\n  x"
    assert [text[start:end] for _, (start, end) in backend.pre_tokenizer.pre_tokenize_str(text)] == pieces


def test_a_way_to_split_that_is_not_known_is_refused(trained: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ModelSourceError, match=r"splits words as 'zebra' \(tokenizer.ggml.pre\), which is not known; .* with --tokenizer"):
        load_tokenizer(written(trained, tmp_path / "m.gguf", "zebra"), None, Path("/nonexistent"))


def test_texts_begin_as_llama_3_has_them_where_the_file_does_not_say(trained: dict[str, Any], tmp_path: Path) -> None:
    for pre, has_bos in (("llama-bpe", True), ("qwen2", False)):
        ours = load_tokenizer(written(trained, tmp_path / f"{pre}.gguf", pre), None, Path("/nonexistent"))
        assert (ours.encode("a", add_special_tokens=True)[0] == ours.token_to_id("<eos>")) == has_bos


@pytest.mark.parametrize("key", ["tokenizer.ggml.merges", "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"])
def test_a_damaged_tokenizer_is_named(trained: dict[str, Any], tmp_path: Path, key: str) -> None:
    files = written(trained, tmp_path / "m.gguf", "deepseek-v3")
    metadata = read_tokenizer_metadata(files.path)
    damaged = {"tokenizer.ggml.merges": ["zebra horse"], "tokenizer.ggml.tokens": [1, 2], "tokenizer.ggml.token_type": [1]}
    with pytest.raises(ModelSourceError, match=r"in the metadata of .*m\.gguf cannot be read"):
        load_gguf_tokenizer(files.path, metadata | {key: damaged[key]})


@pytest.mark.parametrize(
    ("special", "ends"),
    [
        (["<|endoftext|>", "<|assistant|>", "<|end|>"], {"<|endoftext|>", "<|end|>"}),  # Phi-3, whose files name the first
        (["<|return|>", "<|start|>", "<|end|>", "<|call|>"], {"<|return|>", "<|call|>"}),  # gpt-oss
        (["<eos>", "<start_of_turn>", "<end_of_turn>"], {"<eos>", "<end_of_turn>"}),
    ],
)
def test_what_ends_an_answer_beside_what_the_file_names(trained: dict[str, Any], special: list[str], ends: set[str]) -> None:
    words = ["<|im_end|>", *sorted(trained["vocab"], key=trained["vocab"].__getitem__)]  # the first as a word like any other
    metadata = {
        "tokenizer.ggml.tokens": [*words, *special],
        "tokenizer.ggml.token_type": [1] * len(words) + [3] * len(special),
        "tokenizer.ggml.eos_token_id": len(words),
    }
    found = gguf_eos_token_ids(metadata)
    assert found[0] == len(words)
    assert {metadata["tokenizer.ggml.tokens"][token_id] for token_id in found} == ends
