"""From a name that a user wrote to the option it means: exact, abbreviated, or a sentence that says what to write."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from headway.server.config.fields import Setting
from headway.server.config.vllm_flags import VllmFlags

# Flags of `serve` that are no options: where options come from, and what to do in place of serving.
CONFIG_FLAG = "config"
ACTIONS = ("show-config", "help")


@dataclass(frozen=True, slots=True)
class Meaning:
    """An option under one of its names; ``negated`` for a name that turns it off."""

    setting: Setting
    negated: bool = False


class Names:
    """Every name of every option, in dashes."""

    def __init__(self, settings: Iterable[Setting]) -> None:
        self.settings = tuple(settings)
        self.vllm = VllmFlags()
        self._exact: dict[str, Meaning] = {}
        self._short: dict[str, Meaning] = {}
        for setting in self.settings:
            self._exact.update((name, Meaning(setting)) for name in setting.names)
            self._exact.update((name, Meaning(setting, negated=True)) for name in setting.negative_names)
            self._short.update((name.removeprefix("-"), Meaning(setting)) for name in setting.option.short)

    def find(self, name: str) -> Meaning | None:
        return self._exact.get(dashed(name))

    def short(self, letters: str) -> Meaning | None:
        return self._short.get(letters)

    def setting(self, name: str) -> Setting:
        """The option of a field's name, which must exist."""
        return self._exact[dashed(name)].setting

    def abbreviated(self, name: str) -> list[str]:
        """Names that begin with ``name``, one for each meaning, unless vLLM itself has an option of exactly that name."""
        start = dashed(name)
        if not start or self.explained(start):
            return []
        # enable-x for disable-x and the like is accepted in full only: it would make too many abbreviations ambiguous.
        candidates = [n for s in self.settings for n in (*s.names, *(f"no-{n}" for n in s.names if s.negative_names))]
        matches = [n for n in (*candidates, CONFIG_FLAG, *ACTIONS) if n.startswith(start)]
        return list({self._exact.get(n, n): n for n in reversed(matches)}.values())[::-1]

    def explained(self, name: str) -> str | None:
        """Why a name that vLLM knows, or knew, is not taken here, and what to do; None for any other name."""
        return self.vllm.explained(dashed(name))

    def is_met(self, name: str, text: str) -> bool:
        """Whether ``name`` is an option of vLLM that is not taken here, and ``text`` a value of it that asks for what is done anyway."""
        return self.find(name) is None and self.vllm.is_met(dashed(name), text)

    def unknown(self, name: str, spell: Callable[[str], str]) -> str:
        """What to say about a name that is no option; ``spell`` writes a valid name as this source would."""
        if sentence := self.explained(name):
            return sentence
        import difflib

        ours = [*self._exact, CONFIG_FLAG, *ACTIONS]
        near = difflib.get_close_matches(dashed(name), [*ours, *self.vllm.known], n=1, cutoff=0.7)
        near = near or [known for known in self.vllm.known if dashed(name) and known.startswith(dashed(name))]
        if not near:
            return "unknown option; `headway serve --help` lists them all"
        if near[0] in ours:
            return f"unknown option; did you mean {spell(near[0])}?"
        return f"unknown option; vLLM's {spell(near[0])}, if that is meant, is not supported by this version of Headway; leave it out"


def dashed(name: str) -> str:
    return name.strip().lower().replace("_", "-")
