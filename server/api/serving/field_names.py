"""Errors of a chat in the words of the request that was translated into it: each API has names of its own for the same fields."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from headway.server.errors import RequestError


class FieldNames:
    """``names``: (pattern at the beginning of a chat's param, what stands there instead), of which the first that matches counts."""

    def __init__(self, *names: tuple[str, str]) -> None:
        self._names = [(re.compile(pattern), name) for pattern, name in names]

    def __call__(self, param: str) -> str:
        for pattern, name in self._names:
            if (found := pattern.match(param)) is not None:
                return found.expand(name) + param[found.end() :]
        return param


@contextmanager
def in_words_of(name_of: Callable[[str], str], shown: Mapping[str, str] | None = None) -> Iterator[None]:
    """RequestErrors raised inside get the param that ``name_of`` gives for theirs, and so does the place in their text that names it.

    ``shown``: params whose place in the text gets other words.
    """
    try:
        yield
    except RequestError as error:
        if error.param is None or (param := name_of(error.param)) == error.param:
            raise
        text = str(error).replace(error.param, (shown or {}).get(error.param, param), 1)
        raise type(error)(text, param) from error
