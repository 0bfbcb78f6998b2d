"""Tokenizers out of GGUF metadata: byte-level BPE directly, in a third of a second; the other kinds are conversion.py's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headway.server.errors import ModelSourceError
from headway.server.source.gguf_metadata import read_gguf_metadata
from headway.server.text.backend import set_surrounding_tokens
from headway.server.text.gguf_words import WordRules, word_rules
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
# Ends of answers: of Llama 3, ChatML, Phi-3, gpt-oss, Gemma.
_ENDS = frozenset(
    ("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<end_of_turn>"),
)
_ENDS_OF_HARMONY = frozenset(("<|return|>", "<|call|>"))
_ARRAYS = {f"tokenizer.ggml.{name}" for name in ("tokens", "token_type", "merges")}
_CHAT_TEMPLATE = "tokenizer.chat_template"
_ADD_BOS = "tokenizer.ggml.add_bos_token"


@dataclass(frozen=True)
class GgufTokenizerParts:
    backend: tokenizers.Tokenizer
    special_tokens: dict[str, str]
    chat_templates: dict[str, str]


def read_tokenizer_metadata(path: Path) -> dict[str, Any]:
    """The metadata that describes the tokenizer. Raises ModelSourceError."""
    return read_gguf_metadata(path, arrays=_ARRAYS)


def gguf_eos_token_ids(metadata: Mapping[str, Any]) -> list[int]:
    """End of sequence, end of turn, end of message: each ends an answer. Most files name the first alone, and have no generation config
    that would name the others: those are known by their text, as llama.cpp knows them."""
    named = [metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    tokens, kinds = (
        found if isinstance(found := metadata.get(f"tokenizer.ggml.{name}"), list) else [] for name in ("tokens", "token_type")
    )
    marks = {
        token: index
        for index, (token, kind) in enumerate(zip(tokens, kinds, strict=False))
        if kind in (_CONTROL, _USER_DEFINED) and isinstance(token, str) and token in _ENDS
    }
    if marks.keys() >= _ENDS_OF_HARMONY:
        marks.pop("<|end|>", None)  # there it ends one message of several
    return list(dict.fromkeys(token_id for token_id in (*named, *marks.values()) if isinstance(token_id, int)))


def load_gguf_tokenizer(path: Path, metadata: Mapping[str, Any]) -> GgufTokenizerParts | None:
    """The tokenizer where it is byte-level BPE, else None; so too where the file does not say how words are split.

    Raises ModelSourceError for a damaged one, and for a way to split words that is not known: any other would give other tokens than the
    model was trained on. transformers reads these too, but importing and running it takes 7 s on a 2-core machine against 0.3 s here
    (2026-11-24); the tests hold the two equal.
    """
    if metadata.get("tokenizer.ggml.model") != "gpt2" or "tokenizer.ggml.merges" not in metadata:
        return None
    rules = _rules(path, metadata)
    try:
        return None if rules is None else _byte_level(rules, metadata)
    except Exception as error:  # the library raises bare Exception, and the file's lists may be of anything
        raise ModelSourceError(
            f"The tokenizer in the metadata of {path} cannot be read: {error}; copy or download the file again."
        ) from error


def _byte_level(rules: WordRules, metadata: Mapping[str, Any]) -> GgufTokenizerParts | None:
    """None for a vocabulary that is not spelled in byte letters."""
    from tokenizers import AddedToken, Tokenizer, decoders, models

    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    kinds: list[int] = metadata.get("tokenizer.ggml.token_type") or [_NORMAL] * len(tokens)
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens) or not _is_byte_level(tokens, kinds):
        return None
    merges = [(left, right) for left, _, right in (merge.partition(" ") for merge in metadata["tokenizer.ggml.merges"])]
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, fuse_unk=False, ignore_merges=rules.takes_whole_words))
    rules.apply_to(backend)
    backend.decoder = decoders.ByteLevel()
    for kind, special in ((_CONTROL, True), (_USER_DEFINED, False)):
        added = [
            AddedToken(token, normalized=False, special=special) for token, of_kind in zip(tokens, kinds, strict=True) if of_kind == kind
        ]
        backend.add_special_tokens(added) if special else backend.add_tokens(added)
    special_tokens = _special_tokens(metadata)
    if rules.has_bos:
        metadata = {_ADD_BOS: True, **metadata}
    _surround(backend, metadata, special_tokens)
    return GgufTokenizerParts(backend, special_tokens, chat_templates(metadata))


def _rules(path: Path, metadata: Mapping[str, Any]) -> WordRules | None:
    name = metadata.get("tokenizer.ggml.pre", "default")
    if name == "default":  # of the first files, before there were names
        return None
    rules = word_rules(name) if isinstance(name, str) else None
    if rules is None:
        raise ModelSourceError(
            f"The tokenizer of {path} splits words as {name!r} (tokenizer.ggml.pre), which is not known; name the tokenizer of the model "
            "that it was made from with --tokenizer."
        )
    return rules


def chat_templates(metadata: Mapping[str, Any]) -> dict[str, str]:
    """By name: the one without a name is the default."""
    found = {key.removeprefix(_CHAT_TEMPLATE + "."): value for key, value in metadata.items() if key.startswith(_CHAT_TEMPLATE + ".")}
    if _CHAT_TEMPLATE in metadata:
        found["default"] = metadata[_CHAT_TEMPLATE]
    return {name: source for name, source in found.items() if isinstance(source, str)}


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
