"""Changes to a freshly loaded `tokenizers.Tokenizer`, before it is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tokenizers


def set_surrounding_tokens(backend: tokenizers.Tokenizer, bos: str | None, eos: str | None) -> None:
    """Makes `encode` with special tokens put these, and nothing else, around a text."""
    from tokenizers.processors import TemplateProcessing

    before, after = ([f"{bos}:0"] if bos else []), ([f"{eos}:0"] if eos else [])
    ids = [(text, backend.token_to_id(text)) for text in dict.fromkeys((bos, eos)) if text]
    backend.post_processor = TemplateProcessing(single=[*before, "$A:0", *after], special_tokens=ids)


def add_missing_tokens(backend: tokenizers.Tokenizer, config: Mapping[str, Any], special: Mapping[str, str]) -> None:
    """Some models list added tokens in tokenizer_config.json only, or leave a named special token an ordinary one."""
    from tokenizers import AddedToken

    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    listed = config.get("added_tokens_decoder")
    listed = listed if isinstance(listed, dict) else {}
    for _, fields in sorted(listed.items(), key=lambda item: int(item[0])):
        if fields["content"] not in known:
            flags = {name: bool(fields.get(name)) for name in ("single_word", "lstrip", "rstrip", "normalized", "special")}
            backend.add_tokens([AddedToken(fields["content"], **flags)])
            known.add(fields["content"])
    for text in special.values():
        if text not in known:
            backend.add_special_tokens([AddedToken(text, normalized=False, special=True)])
