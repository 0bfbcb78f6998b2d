"""What answers are constrained to, looked at before a request is admitted: a grammar that can't be done is refused, with the reason."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import msgspec

from headway.server.config.structured import StructuredConfig
from headway.server.errors import RequestError
from headway.server.text.grammars.library import compiled, compiling_pool, library_form, try_out
from headway.server.text.grammars.vocabulary import library_tokenizer
from headway.server.types import Grammar

if TYPE_CHECKING:
    import llguidance

    from headway.server.text.tokenizer import Tokenizer

MAX_CHARS = 256 * 1024
_MAX_KEPT = 128  # grammars that need no second look, 64 MiB at the very most


class GrammarChecker:
    """Translates grammars to the library's form and compiles each once to see that it can be. The engine compiles it for itself."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, options: StructuredConfig) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._options = options
        self._outcome_of = lru_cache(_MAX_KEPT)(self._begin)

    async def checked(self, grammar: Grammar) -> Grammar:
        """See serving/grammar.py."""
        if len(grammar.source) > MAX_CHARS:
            raise RequestError(
                f"{grammar.param or 'The grammar'} has {len(grammar.source)} characters; at most {MAX_CHARS} are taken.", grammar.param
            )
        starts_after = () if self._options.is_enabled_in_reasoning else grammar.starts_after
        # Shielded: another request may wait for the same one.
        outcome = await asyncio.shield(asyncio.wrap_future(self._outcome_of(self._completed(grammar))))
        if isinstance(outcome, ValueError):
            raise RequestError(f"{grammar.param or 'The grammar'} can't be enforced: {str(outcome).removesuffix('.')}.", grammar.param)
        return Grammar("checked", outcome, starts_after)

    def _completed(self, grammar: Grammar) -> Grammar:
        """With what the server's options say, and without what makes no difference to the library's form."""
        whitespace = "" if self._options.disables_any_whitespace and grammar.whitespace is None else grammar.whitespace
        completed: Grammar = msgspec.structs.replace(
            grammar,
            whitespace=whitespace,
            closes_objects=grammar.closes_objects or self._options.disables_additional_properties,
            starts_after=(),
            param=None,
        )
        return completed

    def _begin(self, grammar: Grammar) -> Future[str | ValueError]:
        return self._pool.submit(self._look_at, grammar)

    def _look_at(self, grammar: Grammar) -> str | ValueError:
        """The library's form, or why there is none."""
        try:
            form = library_form(grammar, self._special)
            try_out(compiled(form, self._library_tokenizer), self._vocab_size)
        except ValueError as problem:
            return ValueError(str(problem))  # without the frames of the first: it is kept
        except RecursionError:
            return ValueError("it is nested too deeply")
        return form

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return compiling_pool()

    @cached_property
    def _library_tokenizer(self) -> llguidance.LLTokenizer:
        return library_tokenizer(self._tokenizer, self._vocab_size)

    @cached_property
    def _special(self) -> dict[str, int]:
        named = {self._tokenizer.id_to_token(token_id): token_id for token_id in self._tokenizer.special_ids}
        return {text: token_id for text, token_id in named.items() if text}
