"""Text to token ids and back, with the model's special tokens and chat template. A leaf: `tokenizers` only, no transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headway.server.errors import ModelSourceError, RequestError
from headway.server.source.files import ModelFiles
from headway.server.source.resolve import resolve_tokenizer
from headway.server.text.backend import add_missing_tokens
from headway.server.text.generation import eos_of
from headway.server.text.gguf_tokenizer import gguf_eos_token_ids, load_gguf_tokenizer, read_tokenizer_metadata
from headway.server.text.model_json import read_json
from headway.server.text.token_bytes import spelled_bytes, spelling_of

if TYPE_CHECKING:
    import tokenizers

# Names under which templates and configurations know the special tokens.
SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class Tokenizer:
    """A model's tokenizer: immutable after construction, safe to use from several threads.

    - `special_tokens`: name ("bos_token") -> text, as chat templates want them; only those the model has.
    - `eos_token_ids`: every token that ends an answer: the tokenizer's own first, then the generation config's.
    - `chat_templates`: name ("default", "tool_use") -> Jinja source; empty where the model has none.
    - `config`: its tokenizer_config.json; empty where there is none, as beside a GGUF file.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        special_tokens: Mapping[str, str],
        eos_token_ids: Iterable[int] = (),
        chat_templates: Mapping[str, str] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.backend = backend
        self.special_tokens = dict(special_tokens)
        self.chat_templates = dict(chat_templates or {})
        self.config = dict(config or {})
        own_eos = backend.token_to_id(self.special_tokens["eos_token"]) if "eos_token" in self.special_tokens else None
        self.eos_token_ids = tuple(dict.fromkeys(([] if own_eos is None else [own_eos]) + list(eos_token_ids)))
        self.bos_token = self.special_tokens.get("bos_token")
        self.bos_token_id = None if self.bos_token is None else backend.token_to_id(self.bos_token)
        self.vocab_size = backend.get_vocab_size(with_added_tokens=True)
        added = backend.get_added_tokens_decoder()
        self.special_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        self._added_ids = frozenset(added)
        self._spelling = spelling_of(backend)

    @property
    def eos_token_id(self) -> int | None:
        return self.eos_token_ids[0] if self.eos_token_ids else None

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """The token ids of a text. `add_special_tokens` adds what the model wants around a prompt (often a BOS, often nothing);
        special tokens written out in the text become their ids either way. Raises RequestError for text that is no Unicode.

        CPU work, about 1 million tokens a second; other threads run meanwhile.
        """
        return self.encode_batch([text], add_special_tokens=add_special_tokens)[0]

    def encode_batch(self, texts: Sequence[str], *, add_special_tokens: bool) -> list[list[int]]:
        """`encode` of several texts at once, in parallel where there are cores for it."""
        return [found.ids for found in self.encodings(texts, add_special_tokens=add_special_tokens)]

    def encodings(self, texts: Sequence[str], *, add_special_tokens: bool) -> list[tokenizers.Encoding]:
        """`encode_batch` in the library's own form, which can be cut and joined."""
        try:
            # Not `encode`: that one computes offsets too (1.7 times the time) and holds the interpreter lock.
            return list(self.backend.encode_batch_fast(list(texts), add_special_tokens=add_special_tokens))
        except (TypeError, UnicodeEncodeError) as error:
            lone = next((c for text in texts for c in text if 0xD800 <= ord(c) <= 0xDFFF), None)
            if lone is None:
                raise
            raise RequestError(
                f"The text holds U+{ord(lone):04X}, half of a surrogate pair, which is no character; send valid Unicode."
            ) from error

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of token ids; ids that the vocabulary lacks have none. Incomplete UTF-8 becomes U+FFFD."""
        return str(self.backend.decode(list(token_ids), skip_special_tokens=skip_special_tokens))

    def token_to_id(self, token: str) -> int | None:
        return self.backend.token_to_id(token)

    def id_to_token(self, token_id: int) -> str | None:
        """The token as the vocabulary spells it ("Ġworld"), None where there is none."""
        return self.backend.id_to_token(token_id)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for: often whole characters, sometimes a part of one; empty where there is none."""
        token = self.backend.id_to_token(token_id)
        if token is None:
            return b""
        return token.encode() if token_id in self._added_ids else spelled_bytes(token, self._spelling)

    def token_text(self, token_id: int) -> str:
        """A token on its own, for logprobs: its bytes as text, U+FFFD for a part of a character."""
        return self.token_bytes(token_id).decode("utf-8", "replace")


def load_tokenizer(
    files: ModelFiles,
    tokenizer: str | None,
    cache_dir: Path,
    *,
    revision: str | None = None,
    token: str | None = None,
    download_dir: str | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> Tokenizer:
    """The tokenizer of a model, or the one that `tokenizer` names (directory, .gguf file, `s3://...` or Hub id).

    The model's generation config adds its end-of-sequence tokens in any case. What only transformers can read is converted
    once, slowly, and kept below `cache_dir`; later calls don't import transformers. Raises ModelSourceError.
    """
    eos = eos_of(files)
    if tokenizer is not None:
        path = resolve_tokenizer(
            tokenizer, cache_dir=cache_dir, revision=revision, token=token, download_dir=download_dir, on_progress=on_progress
        )
        if path.is_dir():
            return _from_directory(path, eos, cache_dir, on_progress)
        return _from_gguf(path, eos, cache_dir, on_progress)
    if files.kind == "gguf":
        return _from_gguf(files.path, eos, cache_dir, on_progress)
    return _from_directory(files.path, eos, cache_dir, on_progress)


def _from_gguf(path: Path, eos: Sequence[int], cache_dir: Path, on_progress: Callable[[str], None] | None) -> Tokenizer:
    metadata = read_tokenizer_metadata(path)
    eos = [*eos, *gguf_eos_token_ids(metadata)]
    parts = load_gguf_tokenizer(path, metadata)
    if parts is not None:
        return Tokenizer(parts.backend, special_tokens=parts.special_tokens, eos_token_ids=eos, chat_templates=parts.chat_templates)
    from headway.server.text.conversion import converted_tokenizer

    return _from_directory(converted_tokenizer(path, cache_dir, on_progress), eos, cache_dir, on_progress)


def _from_directory(directory: Path, eos: Sequence[int], cache_dir: Path, on_progress: Callable[[str], None] | None) -> Tokenizer:
    import tokenizers

    source = directory / "tokenizer.json"
    if not source.is_file():
        from headway.server.text.conversion import converted_tokenizer

        converted = converted_tokenizer(directory, cache_dir, on_progress)
        assert (converted / "tokenizer.json").is_file()
        return _from_directory(converted, eos, cache_dir, on_progress)
    try:
        backend = tokenizers.Tokenizer.from_file(str(source))
    except Exception as error:  # the library raises bare Exception for every fault of the file
        raise ModelSourceError(f"The tokenizer {source} cannot be read: {error}; copy or download it again.") from error
    config = read_json(directory / "tokenizer_config.json")
    special = _special_tokens(read_json(directory / "special_tokens_map.json") | config)
    backend.no_truncation()
    backend.no_padding()
    add_missing_tokens(backend, config, special)
    # What stands around a text is tokenizer.json's business: transformers ignores add_bos_token beside one too.
    templates = chat_templates_in(directory, config)
    return Tokenizer(backend, special_tokens=special, eos_token_ids=eos, chat_templates=templates, config=config)


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """Special tokens are written as text, or as an object with the text as its content."""
    found = {}
    for name in SPECIAL_NAMES:
        value = config.get(name)
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str) and text:
            found[name] = text
    return found


def chat_templates_in(directory: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """By name; a file of its own wins over tokenizer_config.json."""
    templates: dict[str, str] = {}
    for source in (config.get("chat_template"), read_json(directory / "chat_template.json").get("chat_template")):
        if isinstance(source, str):
            templates["default"] = source
        elif isinstance(source, list):
            templates |= {entry["name"]: entry["template"] for entry in source if isinstance(entry, dict)}
    for path in sorted((directory / "chat_templates").glob("*.jinja")):
        templates[path.stem] = path.read_text(encoding="utf-8")
    if (path := directory / "chat_template.jinja").is_file():
        templates["default"] = path.read_text(encoding="utf-8")
    return templates
