"""Tables of options for the documentation: all of them in options.md, a topic's own on the page about it."""

from __future__ import annotations

import re

from headway.server.config.fields import Kind, Setting
from headway.server.config.show import groups, shown_default
from headway.server.config.sources import all_settings
from headway.server.config.values import expected
from headway.server.errors import ConfigError

_HEAD = ("| flag | environment | takes | default | meaning |", "|---|---|---|---|---|")
_MARKED = re.compile(r"(<!-- options: ([a-z_ ]+) -->\n).*?(<!-- /options -->)", re.DOTALL)
_OPENED = re.compile(r"<!-- options:")


def docs_table() -> str:
    """docs/options.md."""
    lines = [
        "# All options of `headway serve`",
        "",
        "Made by `headway options > docs/options.md` from the declarations in `server/config/`; a test keeps it current.",
        "How sources, spellings and errors work: [configuration.md](configuration.md).",
        "",
        "The YAML key is the flag without `--`. `SM_<NAME>` works wherever `SM_VLLM_<NAME>` is shown.",
    ]
    for title, settings in groups():
        lines += ["", f"## {title}", "", *_table(settings)]
    return "\n".join(lines) + "\n"


def filled(page: str) -> str:
    """A page of the documentation with current tables.

    One stands between `<!-- options: network -->` and `<!-- /options -->`, each on a line of its own, and is of the topics that the
    first names: files of server/config/, as ServerConfig calls them. Raises ConfigError for other names and a mark without its end.
    """
    if len(_OPENED.findall(page)) != len(_MARKED.findall(page)):
        raise ConfigError(
            ["a table of options begins with `<!-- options: TOPIC -->` and ends with `<!-- /options -->`, each on its own line"]
        )
    return _MARKED.sub(lambda match: match[1] + "\n".join(["", *_table(_of_topics(match[2].split())), "", match[3]]), page)


def topics_on(page: str) -> set[str]:
    """The topics whose tables are on a page."""
    return {topic for match in _MARKED.finditer(page) for topic in match[2].split()}


def _of_topics(topics: list[str]) -> list[Setting]:
    settings = [setting for setting in all_settings() if setting.topic in topics]
    if unknown := sorted(set(topics) - {setting.topic for setting in settings}):
        raise ConfigError([f"no topic of options is called {', '.join(unknown)}"])
    return settings


def _table(settings: list[Setting]) -> list[str]:
    return [*_HEAD, *map(_row, settings)]


def _row(setting: Setting) -> str:
    flags = ", ".join(f"`{flag}`" for flag in (*(f"--{name}" for name in setting.names), *setting.option.short))
    if setting.kind is Kind.BOOL:
        flags += f", `--no-{setting.key}`"
    if setting.option.positional:
        flags = f"`{setting.option.metavar}` (first argument), {flags}"
    variables = ", ".join(f"`{name}`" for name in setting.environment_names if not name.startswith("SM_") or name.startswith("SM_VLLM_"))
    default = "" if setting.default is None else f"`{shown_default(setting.default, setting)}`"
    cells = (flags, variables, expected(setting), default, setting.help)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
