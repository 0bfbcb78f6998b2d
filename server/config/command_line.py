"""The command line of `serve`: argv -> values given.

Not argparse: that stops at the first mistake and prints hundreds of lines of usage before it; here every mistake is one line and
all are told at once. The grammar is argparse's all the same: `--x v`, `--x=v`, lists of words, unambiguous prefixes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from headway.server.config.fields import Kind, Setting
from headway.server.config.given import Findings, Given, Origin, Source
from headway.server.config.names import CONFIG_FLAG, Meaning, Names, dashed
from headway.server.config.values import BadValue, opposite, parse_bool, parse_human_int, parse_words

_OPTION = re.compile(r"--?[A-Za-z]")
_POSITIONAL = "MODEL argument"


@dataclass(slots=True)
class CommandLine(Findings):
    """What stands on a command line: values, and what to do in place of serving."""

    show_config: bool = False
    help: str | None = None  # "" or the word after --help=
    skipped_words: bool = False  # words after an option that is none: one of them may have been the model


def read_command_line(argv: Sequence[str], names: Names) -> CommandLine:
    walk = _Walk(argv, names)
    walk.run()
    return walk.found


class _Walk:
    """Goes over the words once. ``dotted`` collects --option.key value until the end, where they are laid over --option's JSON."""

    def __init__(self, argv: Sequence[str], names: Names) -> None:
        self.words = list(argv)
        self.at = 0
        self.names = names
        self.found = CommandLine()
        self.last: dict[str, Given] = {}
        self.dotted: dict[str, tuple[str, dict[str, Any]]] = {}
        self.positional: list[str] = []

    def run(self) -> None:
        while self.at < len(self.words):
            word = self.words[self.at]
            self.at += 1
            if word == "--":
                self.positional += self.words[self.at :]
                break
            if _OPTION.match(word):
                self._option(word)
            else:
                self.positional.append(word)
        self._merge_dotted()
        self._model()
        self.found.given = list(self.last.values())

    def _option(self, word: str) -> None:
        head, equals, value = word.partition("=")
        inline = value if equals else None
        if not head.startswith("--"):
            self._short(head, inline)
            return
        name, _, path = head.removeprefix("--").partition(".")
        name = dashed(name)
        meaning = self.names.find(name)
        if meaning is None and name not in (CONFIG_FLAG, "show-config", "help"):
            matches = self.names.abbreviated(name)
            if len(matches) > 1:
                self._problem(f"--{name}", "stands for several options: " + ", ".join(f"--{match}" for match in matches))
                self._skip_words()
                return
            name = matches[0] if matches else name
            meaning = self.names.find(name)
        if meaning is None:
            self._no_option(name, inline, is_dotted=bool(path))
        elif path:
            self._dotted_value(meaning, f"--{name}.{path}", path.split("."), inline)
        else:
            self._value(meaning, f"--{name}", inline)

    def _no_option(self, name: str, inline: str | None, *, is_dotted: bool) -> None:
        if name == CONFIG_FLAG:
            words = self._words(f"--{CONFIG_FLAG}", inline, many=False)
            if words and self.found.config_file is not None:
                self._problem("--config", f"is given twice ({self.found.config_file} and {words[0]}); name one file")
            self.found.config_file = words[0] if words else self.found.config_file
        elif name == "show-config":
            self.found.show_config = parse_bool(inline or "true") is not False
        elif name == "help":
            self.found.help = inline or ""
        elif is_dotted or not self._is_met(name, inline):
            self._problem(f"--{name}", self.names.unknown(name, lambda near: f"--{near}"))
            self._skip_words()

    def _is_met(self, name: str, inline: str | None) -> bool:
        """Whether an option of vLLM's asks for what is done anyway; then its value is behind us, else nothing has changed."""
        start = self.at
        if inline is None:
            inline = self._switch() if self.names.vllm.is_switch(name) else self._next_word()
        is_met = self.names.is_met(name, inline)
        self.at = self.at if is_met else start
        return is_met

    def _next_word(self) -> str:
        """The word behind an option; empty where there is none."""
        if self.at == len(self.words) or _OPTION.match(self.words[self.at]):
            return ""
        self.at += 1
        return self.words[self.at - 1]

    def _short(self, head: str, inline: str | None) -> None:
        letters = head.removeprefix("-")
        if letters == "h":
            self.found.help = inline or ""
            return
        name, _, path = letters.partition(".")
        if path and (tree := self.names.short(name)):
            self._dotted_value(tree, f"-{letters}", path.split("."), inline)
            return
        meaning = self.names.short(letters)
        if meaning is None and inline is None and (meaning := self.names.short(letters[:1])):
            letters, inline = letters[:1], letters[1:]
        if meaning is not None:
            self._value(meaning, f"-{letters}", inline)
        elif long := self.names.vllm.long_form(letters):
            self._short_of_vllm(f"-{letters}", *long, inline)
        else:
            near = f"did you mean --{letters}?" if self.names.find(letters) else "`headway serve --help` lists them all"
            self._problem(f"-{letters}", f"unknown option; {near}")
            self._skip_words()

    def _short_of_vllm(self, label: str, name: str, value: str | None, inline: str | None) -> None:
        """A single-dash name of vLLM's that is none of ours."""
        if meaning := self.names.find(name):
            self._value(meaning, label, inline if value is None else value)
        elif not self._is_met(name, inline if value is None else value):
            self._problem(label, self.names.unknown(name, lambda near: f"--{near}"))
            self._skip_words()

    def _value(self, meaning: Meaning, label: str, inline: str | None) -> None:
        setting = meaning.setting
        if setting.kind is Kind.BOOL:
            words: list[str] | None = [inline if inline is not None else self._switch()]
        else:
            words = self._words(label, inline, many=self._takes_many(setting))
        if words is None:
            return
        if inline is not None and setting.kind is Kind.LIST and setting.option.secret and self._skip_bare_words():
            # Perhaps the model, perhaps one more secret: neither may be guessed, and the second not be shown.
            self._problem(
                label, f"a word that is not shown follows it; write several keys as {label} k1 k2 or {label}=k1,k2, and the model before"
            )
            return
        try:
            value = parse_words(setting, words)
        except BadValue as error:
            self._problem(label, str(error))
            return
        self._give(setting, opposite(value) if meaning.negated else value, label)

    def _takes_many(self, setting: Setting) -> bool:
        """A JSON array is a whole list, so that the model may follow it; but what follows secrets may be one more."""
        if setting.kind is not Kind.LIST or setting.option.repeats:
            return False
        return setting.option.secret or not (self.at < len(self.words) and self.words[self.at].lstrip().startswith("["))

    def _switch(self) -> str:
        """A boolean takes no word, but one that says true or false was surely meant for it."""
        if self.at < len(self.words) and self.words[self.at].lower() in ("true", "false"):
            self.at += 1
            return self.words[self.at - 1]
        return "true"

    def _words(self, label: str, inline: str | None, *, many: bool) -> list[str] | None:
        if inline is not None:
            return [inline]
        start = self.at
        while self.at < len(self.words) and (many or self.at == start) and not _OPTION.match(self.words[self.at]):
            if self.words[self.at] == "--":
                break
            self.at += 1
        if self.at == start:
            hint = f" (a value that begins with a dash is written {label}=VALUE)" if self.at < len(self.words) else ""
            self._problem(label, f"needs a value{hint}")
            return None
        return self.words[start : self.at]

    def _skip_words(self) -> None:
        """What follows an unknown option may be its values: no second complaint about them."""
        while self.at < len(self.words) and not _OPTION.match(self.words[self.at]):
            self.at += 1
            self.found.skipped_words = True

    def _skip_bare_words(self) -> bool:
        """Whether words that are no options stood here."""
        start = self.at
        while self.at < len(self.words) and self.words[self.at] != "--" and not _OPTION.match(self.words[self.at]):
            self.at += 1
        self.found.skipped_words = self.found.skipped_words or self.at > start
        return self.at > start

    def _dotted_value(self, meaning: Meaning, label: str, path: list[str], inline: str | None) -> None:
        setting = meaning.setting
        words = self._words(label, inline, many=False)
        if setting.kind is not Kind.JSON or not all(path):
            self._problem(label, f"only JSON options take keys after a dot; write {setting.flag} VALUE")
        elif words:
            _, tree = self.dotted.setdefault(setting.name, (label, {}))
            for key in path[:-1]:
                tree = tree[key] if isinstance(tree.get(key), dict) else tree.setdefault(key, {})
                if not isinstance(tree, dict):
                    self._problem(label, "its parent already has a value that is not an object")
                    return
            tree[path[-1]] = _loose_json(words[0])

    def _merge_dotted(self) -> None:
        for name, (label, tree) in self.dotted.items():
            before = self.last.get(name)
            setting = self.names.setting(name)
            value = _merged(before.value, tree) if before and before.value else tree
            self.last[name] = Given(setting, value, Source(Origin.COMMAND_LINE, label))

    def _model(self) -> None:
        setting = next((s for s in self.names.settings if s.option.positional), None)
        if not self.positional or setting is None:
            if self.positional:
                self._problem(self.positional[0], "unexpected argument")
            return
        model, *others = self.positional
        for word in others:
            self._problem(repr(word), f"unexpected argument: the model is already {model!r}, and only one is served")
        before = self.last.get(setting.name)
        if before and before.value != model:
            self.found.warnings.append(f"{before.source.label} {before.value} is not used: the {_POSITIONAL} {model} wins")
        self.last[setting.name] = Given(setting, model, Source(Origin.COMMAND_LINE, _POSITIONAL))

    def _give(self, setting: Setting, value: Any, label: str) -> None:
        if setting.option.repeats and (before := self.last.get(setting.name)):
            value = [*before.value, *value]
        elif setting.name in self.last:
            self.found.warnings.append(f"{label} is given more than once; the last one counts")
        self.last[setting.name] = Given(setting, value, Source(Origin.COMMAND_LINE, label))

    def _problem(self, label: str, sentence: str) -> None:
        self.found.problems.append(f"{label}: {sentence}")


def _loose_json(text: str) -> Any:
    """JSON, else a human-readable whole number, else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        number = parse_human_int(text)
    except BadValue:
        number = None
    return text if number is None else number


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    both = dict(below)
    for key, value in above.items():
        both[key] = _merged(both[key], value) if isinstance(value, dict) and isinstance(both.get(key), dict) else value
    return both
