"""What vLLM's options are here that Headway does not take: gone, not supported, or asking for what is done anyway."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from headway.server.config.values import parse_bool

_UNSUPPORTED = "is an option of vLLM that is not supported by this version of Headway; "
_LEAVE_IT_OUT = "leave it out"


class VllmFlags:
    """Names are in dashes, without those in front. The table is vllm_flags.json:

    - ``removed``: an option of older versions -> what to do; ``known``: every option of today's.
    - ``advice``: what to do -> options that are not supported. Others of ``known`` are to be left out.
    - ``met``: option -> its values that ask for what is done anyway.
    - ``shorts``: a single-dash name -> its option.
    """

    @cached_property
    def known(self) -> list[str]:
        return list(self._table["known"])

    @property
    def with_advice(self) -> list[str]:
        return list(self._advice)

    @property
    def with_met_values(self) -> list[str]:
        return list(self._table["met"])

    def explained(self, name: str) -> str | None:
        """Why ``name`` is not taken, and what to do; None for a name that vLLM never had."""
        positive = name.removeprefix("no-")
        for candidate in (name, positive):
            if sentence := self._table["removed"].get(candidate):
                return f"no longer exists; {sentence}"
        known = next((candidate for candidate in (positive, inverse(positive)) if candidate in self._table["known"]), None)
        return _UNSUPPORTED + self._advice.get(known, _LEAVE_IT_OUT) if known else None

    def is_met(self, name: str, text: str) -> bool:
        """Whether the option, given with the value ``text`` (empty for a bare flag), asks for what is done anyway."""
        met = self._table["met"]
        if name in met:
            return text.strip() in met[name] or (self.is_switch(name) and parse_bool(text or "true") in met[name])
        positive = name.removeprefix("no-") if name.startswith("no-") else inverse(name)
        if positive == name or not self.is_switch(positive):
            return False
        value = parse_bool(text or "true")
        return value is not None and (not value) in met[positive]

    def is_switch(self, name: str) -> bool:
        """Whether a bare flag, in either form, can be met: then no word behind it is its value, but true and false."""
        positive = name.removeprefix("no-")
        met = self._table["met"].get(positive) or self._table["met"].get(inverse(positive)) or []
        return any(isinstance(value, bool) for value in met)

    def long_form(self, letters: str) -> tuple[str, str | None] | None:
        """(option, value written behind it) of a single-dash name: -tp, -O3; None for another."""
        name = letters.rstrip("0123456789")
        if option := self._table["shorts"].get(name):
            return option, letters.removeprefix(name) or None
        return None

    @cached_property
    def _advice(self) -> dict[str, str]:
        return {name: sentence for sentence, names in self._table["advice"].items() for name in names}

    @cached_property
    def _table(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((Path(__file__).parent / "vllm_flags.json").read_text())
        return loaded


def inverse(name: str) -> str:
    """The other of enable-x and disable-x; any other name as it is."""
    if name.startswith("enable-"):
        return "disable-" + name.removeprefix("enable-")
    return "enable-" + name.removeprefix("disable-") if name.startswith("disable-") else name
