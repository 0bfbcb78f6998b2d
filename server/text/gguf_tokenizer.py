"""Tokenizers out of GGUF metadata: byte-level BPE directly, in a third of a second; the other kinds are conversion.py's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headway.server.source.gguf_metadata import read_gguf_metadata
from headway.server.text.backend import set_surrounding_tokens
from headway.server.text.token_bytes import byte_letters

if TYPE_CHECKING:
    import tokenizers

_SPECIAL_KEYS = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
    "sep_token": "seperator_token_id",  # spelled so in the format
    "mask_token": "mask_token_id",
}
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4  # tokenizer.ggml.token_type
_ARRAYS = {f"tokenizer.ggml.{name}" for name in ("tokens", "token_type", "merges")}
_CHAT_TEMPLATE = "tokenizer.chat_template"


@dataclass(frozen=True)
class GgufTokenizerParts:
    backend: tokenizers.Tokenizer
    special_tokens: dict[str, str]
    chat_templates: dict[str, str]


def read_tokenizer_metadata(path: Path) -> dict[str, Any]:
    """The metadata that describes the tokenizer. Raises ModelSourceError."""
    return read_gguf_metadata(path, arrays=_ARRAYS)


def gguf_eos_token_ids(metadata: Mapping[str, Any]) -> list[int]:
    """End of sequence, end of turn, end of message: each ends an answer."""
    keys = (f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom"))
    return list(dict.fromkeys(int(metadata[key]) for key in keys if key in metadata))


def load_gguf_tokenizer(path: Path, metadata: Mapping[str, Any]) -> GgufTokenizerParts | None:
    """The tokenizer where it is byte-level BPE with a way to split words that we know, else None.

    transformers reads these too, but importing and running it takes 7 s on a 2-core machine against 0.3 s here
    (2026-11-24); the tests hold the two equal.
    """
    if metadata.get("tokenizer.ggml.model") != "gpt2" or "tokenizer.ggml.merges" not in metadata:
        return None
    splitter = _word_splitter(metadata.get("tokenizer.ggml.pre"))
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    kinds: list[int] = metadata.get("tokenizer.ggml.token_type") or [_NORMAL] * len(tokens)
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if splitter is None or len(vocabulary) != len(tokens) or not _is_byte_level(tokens, kinds):
        return None
    from tokenizers import AddedToken, Tokenizer, decoders, models

    merges = [(left, right) for left, _, right in (merge.partition(" ") for merge in metadata["tokenizer.ggml.merges"])]
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, fuse_unk=False))
    backend.pre_tokenizer = splitter
    backend.decoder = decoders.ByteLevel()
    for kind, special in ((_CONTROL, True), (_USER_DEFINED, False)):
        added = [
            AddedToken(token, normalized=False, special=special) for token, of_kind in zip(tokens, kinds, strict=True) if of_kind == kind
        ]
        backend.add_special_tokens(added) if special else backend.add_tokens(added)
    special_tokens = _special_tokens(metadata)
    _surround(backend, metadata, special_tokens)
    return GgufTokenizerParts(backend, special_tokens, chat_templates(metadata))


def chat_templates(metadata: Mapping[str, Any]) -> dict[str, str]:
    """By name: the one without a name is the default."""
    found = {key.removeprefix(_CHAT_TEMPLATE + "."): value for key, value in metadata.items() if key.startswith(_CHAT_TEMPLATE + ".")}
    if _CHAT_TEMPLATE in metadata:
        found["default"] = metadata[_CHAT_TEMPLATE]
    return {name: source for name, source in found.items() if isinstance(source, str)}


def _word_splitter(name: str | None) -> Any:
    """The pre-tokenizer of that name in llama.cpp's list, None for one that we don't know."""
    from tokenizers import pre_tokenizers

    # "smollm": llama.cpp and the model's original tokenizer.json split digits off first. transformers' GGUF reader does not,
    # and it is what our output is held against token for token; they differ where several blanks stand before a digit.
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True) if name in ("gpt-2", "smollm") else None


def _is_byte_level(tokens: list[str], kinds: list[int]) -> bool:
    letters = frozenset(byte_letters())
    return all(letters.issuperset(token) for token, kind in zip(tokens, kinds, strict=True) if kind not in (_CONTROL, _USER_DEFINED))


def _special_tokens(metadata: Mapping[str, Any]) -> dict[str, str]:
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    ids = {name: metadata.get(f"tokenizer.ggml.{key}") for name, key in _SPECIAL_KEYS.items()}
    return {name: tokens[token_id] for name, token_id in ids.items() if token_id is not None and token_id < len(tokens)}


def _surround(backend: tokenizers.Tokenizer, metadata: Mapping[str, Any], special_tokens: Mapping[str, str]) -> None:
    wanted = {name: special_tokens.get(f"{name}_token") for name in ("bos", "eos") if metadata.get(f"tokenizer.ggml.add_{name}_token")}
    if any(wanted.values()):
        set_surrounding_tokens(backend, wanted.get("bos"), wanted.get("eos"))
