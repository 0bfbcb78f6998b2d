"""Constraints of answers, checked before a request is admitted: what the grammar library can't do is refused with its reason."""

from __future__ import annotations

from typing import overload

from headway.server.api.deps import ServedModel
from headway.server.types import Grammar


@overload
async def checked_grammar(model: ServedModel, grammar: Grammar) -> Grammar: ...
@overload
async def checked_grammar(model: ServedModel, grammar: None) -> None: ...
async def checked_grammar(model: ServedModel, grammar: Grammar | None) -> Grammar | None:
    """``grammar`` as the engine takes it: translated, and compiled once off the loop to see that it can be.

    Raises RequestError with the library's reason, which names the grammar's ``param``.
    """
    return None if grammar is None else await model.grammars.checked(grammar)
