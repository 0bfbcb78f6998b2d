"""Tokenizers small enough to make in a test: one byte-level, one in sentencepiece's style."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from headway.server.text.token_bytes import byte_letters
from headway.server.text.tokenizer import Tokenizer


def byte_level_backend() -> Backend:
    """One token a byte (ids 0-255), a few merges, `<eos>` and `<bos>` as special tokens."""
    vocabulary = {letter: byte for letter, byte in byte_letters().items()}
    for merged in ("he", "ll", "hell", "Ġw", "Ã©"):
        vocabulary[merged] = len(vocabulary)
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("Ġ", "w"), ("Ã", "©")]
    backend = Backend(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<bos>", special=True, normalized=False), AddedToken("<eos>", special=True, normalized=False)])
    return backend


def byte_level_tokenizer() -> Tokenizer:
    return Tokenizer(byte_level_backend(), special_tokens={"bos_token": "<bos>", "eos_token": "<eos>"})


def write_gpt2_tokenizer(directory: Path) -> None:
    """The byte-level one in files that only transformers reads, with `<|endoftext|>` as token 263."""
    model = json.loads(byte_level_backend().to_str())["model"]
    (directory / "vocab.json").write_text(json.dumps(model["vocab"] | {"<|endoftext|>": 263}))
    (directory / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(merge) for merge in model["merges"]) + "\n")
    (directory / "config.json").write_text('{"model_type": "gpt2"}')
    (directory / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')


def sentencepiece_tokenizer() -> Tokenizer:
    """Blanks are ▁, unknown characters fall back to bytes, the decoder strips the first blank: as in Llama 2."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁abcdehlortw", "he", "▁t", "▁the"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    backend = Backend(
        models.BPE(vocab=vocabulary, merges=[("h", "e"), ("▁", "t"), ("▁t", "he")], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    backend.add_special_tokens(["<s>", "</s>"])
    return Tokenizer(backend, special_tokens={"bos_token": "<s>", "eos_token": "</s>"})
