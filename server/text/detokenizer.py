"""Token ids of one answer to text as they arrive: whole characters only, up to a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from headway.server.text.stop_strings import StopChecker
from headway.server.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from tokenizers.decoders import DecodeStream

# A character has four bytes at most, so this many tokens without the end of one hold bytes that are no text.
_MAX_PENDING = 16


class TextDelta(NamedTuple):
    """New text. `stopped_by`: the stop string that ended the answer; `num_tokens_used`: how many of the pushed tokens belong to it."""

    text: str
    stopped_by: str | None
    num_tokens_used: int


class IncrementalDetokenizer:
    """The text of one answer. `push` token ids in order, then `finish`; the texts joined are the whole answer.

    - `prompt_tail`: the prompt's last ids. Tokenizers that write a blank into a word's first token need them, or the answer's
      first blank is lost; others don't care.
    - without `spaces_between_special_tokens` a special token stands directly behind another one, whatever the decoder writes there.
    - `min_tokens`: no stop string ends the answer before that many tokens.
    - the end-of-sequence token that ended an answer is part of it: without `skip_special_tokens` it shows, so don't push it.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        skip_special_tokens: bool = True,
        spaces_between_special_tokens: bool = True,
        stop: Sequence[str] = (),
        include_stop: bool = False,
        min_tokens: int = 0,
        prompt_tail: Sequence[int] = (),
    ) -> None:
        self._tokenizer = tokenizer
        self._skipped = tokenizer.special_ids if skip_special_tokens else frozenset()
        self._joins_special = not spaces_between_special_tokens
        self._last_was_special = False
        self._checker = StopChecker(stop, include_stop=include_stop)
        self._min_tokens = min_tokens
        self._num_tokens = 0
        # The decode stream holds the same two: ids whose text went out last (as context), and ids without text so far.
        self._context = self._without_broken_end([token_id for token_id in prompt_tail if self._is_text(token_id)])
        self._pending: list[int] = []
        self._stream = self._new_stream(self._context)

    @property
    def stopped_by(self) -> str | None:
        return self._checker.stopped_by

    def push(self, token_ids: Sequence[int]) -> TextDelta:
        """The text that these tokens make certain. After a stop string further tokens are ignored."""
        texts = []
        num_used = 0
        for token_id in token_ids:
            if self._checker.stopped_by is not None:
                break
            num_used += 1
            self._num_tokens += 1
            text = self._decode(token_id)
            texts.append(self._checker.push(text, may_stop=self._num_tokens >= self._min_tokens))
        return TextDelta("".join(texts), self._checker.stopped_by, num_used)

    def finish(self) -> str:
        """The text still held back: the beginning of a stop string, or U+FFFD for a character that never ended. May set `stopped_by`."""
        rest = ""
        if self._pending and self._checker.stopped_by is None:
            rest = self._checker.push(self._text_after_context(self._pending), may_stop=self._num_tokens >= self._min_tokens)
            self._pending = []
        return rest + self._checker.finish()

    def _decode(self, token_id: int) -> str:
        if not self._is_text(token_id):
            return ""
        self._pending.append(token_id)
        try:
            text = self._stream.step(self._tokenizer.backend, token_id)
        except Exception as error:  # the library raises bare Exception
            if "Invalid prefix" not in str(error):
                raise
            # Its context decodes otherwise with this token behind it (a few decoders clean up across tokens).
            text = self._text_after_context(self._pending)
            self._stream = self._new_stream(self._pending)
        if text is None:
            return self._give_up_on_character() if len(self._pending) >= _MAX_PENDING else ""
        self._context, self._pending = self._pending, []
        return self._joined(str(text), token_id)

    def _joined(self, text: str, token_id: int) -> str:
        """The text of a token, without a blank that only parts it from the special token before it."""
        is_special = token_id in self._tokenizer.special_ids
        is_parted = self._joins_special and is_special and self._last_was_special
        self._last_was_special = is_special
        return text.removeprefix(" ") if is_parted else text

    def _give_up_on_character(self) -> str:
        """Lets go of pending bytes that are no text, but for a last character that may still get its end.

        Without this a model that repeats one stray byte would hold everything back, in quadratic time.
        """
        whole = self._text_after_context(self._pending)
        for num_kept in (1, 2, 3):
            gone, kept = self._pending[:-num_kept], self._pending[-num_kept:]
            text = self._text_after_context(gone)
            # Only between characters do the halves decoded apart add up.
            if text + self._tokenizer.decode(kept, skip_special_tokens=False) == whole:
                break
        else:
            gone, kept, text = self._pending, [], whole
        self._context, self._pending = gone, []
        self._stream = self._new_stream([])
        for token_id in kept:
            text += self._decode(token_id)
        return text

    def _text_after_context(self, token_ids: list[int]) -> str:
        """What ids add to the text of the context."""
        before = self._tokenizer.decode(self._context, skip_special_tokens=False)
        return self._tokenizer.decode(self._context + token_ids, skip_special_tokens=False)[len(before) :]

    def _without_broken_end(self, context: list[int]) -> list[int]:
        """Of a prompt that ends within a character, or in U+FFFD: the stream takes such a context for text that has not gone out yet,
        and would put it before the answer."""
        while context and self._tokenizer.decode(context, skip_special_tokens=False).endswith("\ufffd"):
            context = context[:-1]
        return context

    def _is_text(self, token_id: int) -> bool:
        """Ids without text must not reach the stream: it would decode them again with every further token."""
        return token_id not in self._skipped and self._tokenizer.backend.id_to_token(token_id) is not None

    def _new_stream(self, context: Sequence[int]) -> DecodeStream:
        from tokenizers.decoders import DecodeStream

        return DecodeStream(ids=list(context), skip_special_tokens=False)
