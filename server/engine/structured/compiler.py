"""Grammars compiled beside the steps, and kept for the next request that has the same."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from headway.server.text.grammars.library import compiled, compiling_pool
from headway.server.text.grammars.vocabulary import library_tokenizer

if TYPE_CHECKING:
    import llguidance

    from headway.server.text.tokenizer import Tokenizer

# 130 kB each for an everyday schema, with what the lexer learns as it is used; text.grammars.library limits the worst.
_MAX_KEPT = 256


class GrammarCompiler:
    """Owns the compiled grammars. The library works without the interpreter's lock: steps go on meanwhile.

    The model's tokens are read when the first grammar comes, in the same thread.
    """

    def __init__(self, load_tokenizer: Callable[[], Tokenizer], vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self._load_tokenizer = load_tokenizer
        self._recent = lru_cache(_MAX_KEPT)(self._begin)
        self._held: WeakValueDictionary[str, Future[llguidance.LLMatcher]] = WeakValueDictionary()  # by somebody, if only by the former

    def begin(self, form: str) -> Future[llguidance.LLMatcher]:
        """Compiles a grammar in the library's form unless that was done or begun. The future raises ValueError for a bad one.

        It is kept for as long as somebody has the future, and then as one of the latest.
        """
        return self._recent(form)

    def matcher(self, form: str) -> llguidance.LLMatcher:
        """At the beginning of an answer, for one row. Raises ValueError. It should be compiled by now, else this waits."""
        return self.begin(form).result().deep_copy()  # 10 us; copies share what the lexer has learnt

    def _begin(self, form: str) -> Future[llguidance.LLMatcher]:
        compiling = self._held.get(form)
        if compiling is None:
            compiling = self._held[form] = self._pool.submit(lambda: compiled(form, self._tokenizer))
        return compiling

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        """One thread: many new grammars at once take turns, and the steps keep the other cores."""
        return compiling_pool()

    @cached_property
    def _tokenizer(self) -> llguidance.LLTokenizer:
        return library_tokenizer(self._load_tokenizer(), self.vocab_size)
