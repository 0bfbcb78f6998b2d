"""Secrets on their way to the server: in the environment, never in its command line, which anybody on the host can read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from headway.server.config.given import Origin
from headway.server.config.sources import Resolved, all_settings, resolve
from headway.server.config.values import to_text


def environment_for_server(resolved: Resolved, environ: Mapping[str, str]) -> dict[str, str]:
    """``environ`` for the server. A secret that was given as a flag moves into its strongest variable."""
    child = dict(environ)
    for setting in all_settings():
        if setting.option.secret and resolved.source(setting).origin is Origin.COMMAND_LINE:
            child[setting.environment_names[0]] = to_text(setting, resolved.value(setting))
    return child


def what_server_would_lose(resolved: Resolved, arguments: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """A sentence for each option that the server would understand otherwise than we do: a secret given as a flag, which has to
    travel in the environment, loses there to the --config file."""
    server = resolve(arguments[1:], environ)
    return [
        f"{setting.flag}: the --config file {resolved.config_file} sets it too; a secret flag can't win over that, leave one of them out"
        for setting in all_settings()
        if server.value(setting) != resolved.value(setting)
    ]
