"""Secrets on their way to the server: in the environment, never in its command line, which anybody on the host can read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from headway.server.config.given import Origin
from headway.server.config.sources import Resolved, all_settings, resolve
from headway.server.config.values import to_text

PLATFORM_DIRECTORY = Path("/opt/ml")


def environment_for_server(resolved: Resolved, environ: Mapping[str, str]) -> dict[str, str]:
    """``environ`` for the server. A secret that was given as a flag moves into its strongest variable."""
    child = dict(environ)
    for setting in all_settings():
        if setting.option.secret and resolved.source(setting).origin is Origin.COMMAND_LINE:
            child[setting.environment_names[0]] = to_text(setting, resolved.value(setting))
    return child


def key_warnings(resolved: Resolved, environ: Mapping[str, str], platform_directory: Path = PLATFORM_DIRECTORY) -> list[str]:
    """A sentence if there is an API key where no client can send one."""
    signs = [name for name in sorted(environ) if name.startswith("SAGEMAKER_")] or [str(platform_directory)] * platform_directory.is_dir()
    if not resolved.config.http.api_key or not signs:
        return []
    return [
        f"--api-key is set and this looks like SageMaker ({signs[0]}), which takes the Authorization header off every call: all of them "
        "will be answered 401; leave the key out there, where IAM guards the endpoint"
    ]


def what_server_would_lose(resolved: Resolved, arguments: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """A sentence for each option that the server would understand otherwise than we do: a secret given as a flag, which has to
    travel in the environment, loses there to the --config file."""
    server = resolve(arguments[1:], environ)
    return [
        f"{setting.flag}: the --config file {resolved.config_file} sets it too; a secret flag can't win over that, leave one of them out"
        for setting in all_settings()
        if server.value(setting) != resolved.value(setting)
    ]
