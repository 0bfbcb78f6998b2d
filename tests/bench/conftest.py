"""A tokenizer of whole words, small and exact."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from headway.server.bench.prompts import COMMON_WORDS


@pytest.fixture
def word_tokenizer(tmp_path: Path) -> Path:
    """Path of a tokenizer.json in which words of up to five letters are one token, longer ones two."""
    vocab = {"[UNK]": 0}
    for word in COMMON_WORDS:
        for part in [word] if len(word) <= 5 else [word[:5], word[5:]]:
            vocab.setdefault(part, len(vocab))
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Split(_pattern(), behavior="isolated")])
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def _pattern() -> object:
    from tokenizers import Regex

    return Regex(r"\w{1,5}")
