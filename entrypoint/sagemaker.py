"""How SageMaker is recognised, and listeners that it could never reach."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from headway.server.config.server import ServerConfig

PLATFORM_DIRECTORY = Path("/opt/ml")


def sagemaker_variables(environ: Mapping[str, str]) -> list[str]:
    """Those that the platform, or its SDK, sets."""
    return [name for name in sorted(environ) if name.startswith("SAGEMAKER_")]


def listener_problems(config: ServerConfig, environ: Mapping[str, str]) -> list[str]:
    """A sentence for each option with which the platform's health checks would go unanswered, without a clue why."""
    if not (signs := sagemaker_variables(environ)):
        return []
    return [
        f"{flag} cannot be used on SageMaker, and {signs[0]} says that this is it: the platform speaks plain HTTP to a port and ends TLS "
        "itself; leave the option out, or the variable elsewhere"
        for flag in unreachable_listeners(config)
    ]


def listener_warnings(config: ServerConfig, environ: Mapping[str, str], platform_directory: Path = PLATFORM_DIRECTORY) -> list[str]:
    """The same where only its directory is there, which anybody may have mounted."""
    if sagemaker_variables(environ) or not platform_directory.is_dir():
        return []
    return [
        f"{flag} is set; if this is SageMaker ({platform_directory} looks like it), leave it out: the platform speaks plain HTTP to a port"
        for flag in unreachable_listeners(config)
    ]


def unreachable_listeners(config: ServerConfig) -> list[str]:
    """Flags of listeners that the platform could never reach."""
    return ["--ssl-certfile"] * config.tls.is_on + ["--uds"] * (config.network.uds is not None)
