"""The options as people read them: --help, --show-config, and the start's banner."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from typing import Any

from headway.server.config.fields import Kind, Setting
from headway.server.config.given import Origin
from headway.server.config.server import ServerConfig
from headway.server.config.sources import Resolved, all_settings
from headway.server.config.values import masked, to_text
from headway.server.say import one_line

_USAGE = "usage: headway serve [MODEL] [options]"
_ABOUT = (
    "Serve a language model over the OpenAI and SageMaker routes. Options come from the command line, else the --config file, "
    "else the environment, else the default. `--help=WORD` shows only the options with that word in them."
)
_OTHERS = (
    ("--config FILE", "YAML file with option names as keys. [SM_VLLM_CONFIG]"),
    ("SM_VLLM_<NAME>_FILE", "The value is this file's content; so it is with file:// and s3:// as a value, and _0, _1, ... are its parts."),
    ("--show-config", "Print every effective option with its source, secrets masked, and exit."),
    ("-h, --help[=WORD]", "Print this and exit."),
)


def help_text(word: str = "") -> str:
    """The text of `headway serve --help`, or the part of it about options that hold ``word``."""
    wanted = "" if word == "all" else word.lower().replace("_", "-")
    lines = [_USAGE, "", *textwrap.wrap(_ABOUT, 110)]
    if not wanted:
        lines += ["", "Where options come from", *(line for head, text in _OTHERS for line in _entry(head, text))]
    is_found = False
    for title, settings in groups():
        entries = [(_flags(s), _help(s)) for s in settings]
        entries = [(head, text) for head, text in entries if wanted in head or wanted in text.lower() or wanted in title.lower()]
        if entries:
            lines += ["", title, *(line for head, text in entries for line in _entry(head, text))]
            is_found = True
    if not is_found:
        lines += ["", f"No option has {word!r} in its name or its meaning; `headway serve --help` lists them all."]
    return "\n".join(lines) + "\n"


def show_config(resolved: Resolved) -> str:
    """Every effective option as YAML with the source behind it; usable as a --config file."""
    lines = ["# effective options of headway serve; weakest source: default"]
    for title, settings in groups():
        lines += ["", f"# {title}"]
        for setting in settings:
            value = masked(setting, resolved.value(setting))
            line = f"{setting.key}: {json.dumps(value, ensure_ascii=False)}"
            # A mask must not come back as a key, nor a missing key as one that was given.
            hidden = "# " if setting.option.secret else ""
            lines.append(f"{hidden + line:<44} # {one_line(str(resolved.source(setting)))}")
    return "\n".join(lines) + "\n"


def effective_options(config: ServerConfig) -> dict[str, Any]:
    """Every option by its YAML key; secrets masked."""
    return {s.key: masked(s, getattr(getattr(config, s.topic), s.name)) for s in all_settings()}


def differences(resolved: Resolved) -> list[tuple[Setting, str, str]]:
    """(option, value as text, source) of everything that is not left at its default; secrets masked."""
    rows = []
    for setting in all_settings():
        source = resolved.source(setting)
        if source.origin is not Origin.DEFAULT and resolved.value(setting) != setting.default:
            rows.append((setting, to_text(setting, masked(setting, resolved.value(setting))), str(source)))
    return rows


def groups() -> Iterator[tuple[str, list[Setting]]]:
    """(title, options) of each topic, in the order of declaration."""
    groups: dict[str, list[Setting]] = {}
    for setting in all_settings():
        groups.setdefault(setting.title, []).append(setting)
    yield from groups.items()


def _flags(setting: Setting) -> str:
    """ "-q, --quantization {none,int8}"."""
    flags = [*setting.option.short, *(f"--{name}" for name in setting.names)]
    if setting.kind is Kind.BOOL:
        return ", ".join([*flags, f"--no-{setting.key}"])
    spots = {Kind.INT: "N", Kind.FLOAT: "X", Kind.LIST: "A [B ...]", Kind.JSON: "JSON", Kind.TEXT: "TEXT"}
    spot = "{" + ",".join(setting.words) + "}" if setting.kind is Kind.CHOICE else spots[setting.kind]
    head = f"{', '.join(flags)} {setting.option.metavar or spot}"
    return f"{setting.option.metavar}, {head}" if setting.option.positional and setting.option.metavar else head


def _help(setting: Setting) -> str:
    default = "" if _is_told(setting) else f" Default: {shown_default(setting.default, setting)}."
    variables = [name for name in setting.environment_names if not name.startswith("SM_") or name.startswith("SM_VLLM_")]
    return f"{setting.help}{default} [{', '.join(variables)}]"


def _entry(head: str, text: str) -> list[str]:
    body = textwrap.wrap(text, 110, initial_indent=" " * 6, subsequent_indent=" " * 6, break_on_hyphens=False, break_long_words=False)
    return [f"  {head}", *body]


def _is_told(setting: Setting) -> bool:
    """Whether the help sentence tells the default itself, or there is nothing to tell."""
    return setting.default in (None, [], {}, "") or "default:" in setting.help.lower()


def shown_default(value: Any, setting: Setting) -> str:
    return json.dumps(value) if value in ([], {}, "") else to_text(setting, value)
