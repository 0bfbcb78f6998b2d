"""What SageMaker would not take, or not reach, of a container's settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from headway.container.check.findings import Finding, errors, warnings
from headway.container.limits import environment_problems
from headway.container.settings import Settings
from headway.entrypoint.sagemaker import listener_problems, sagemaker_variables, unreachable_flags
from headway.entrypoint.secrets import key_warnings, keys_in_vain
from headway.server.config.environment import unquoted
from headway.server.config.references import secret_place
from headway.server.config.sources import Resolved, all_names
from headway.server.config.values import BadValue
from headway.server.config.variables import Form, find_variables

Platform = Literal["any", "docker", "sagemaker"]

_PORT = 8080
_BIND_TO_PORT = "SAGEMAKER_BIND_TO_PORT"  # the platform's own wish for another
_LOOPBACK = ("localhost", "127.", "::1")


def platform_findings(resolved: Resolved, settings: Settings, platform: Platform) -> list[Finding]:
    """On "sagemaker" what breaks a limit is an error; on "any", where it may never go there, a warning; on "docker" there is no limit."""
    signs = sagemaker_variables(settings.environ)
    # With the platform's variables set, the entrypoint would refuse these wherever it runs.
    found = errors("platform", listener_problems(resolved.config, settings.environ))
    found += warnings("platform", key_warnings(resolved, settings.environ) if signs else [])
    if platform == "docker":
        return found
    limits = environment_problems(settings.environ)
    if not signs:
        limits += [
            f"{flag} can't be used on SageMaker: the platform speaks plain HTTP to a port and ends TLS itself; leave the option out there"
            for flag in unreachable_flags(resolved.config)
        ]
        found += warnings("platform", keys_in_vain(resolved.config.security, "on SageMaker"))
    if platform == "any":
        return found + warnings("platform", limits)
    return found + errors("platform", [*limits, *_unreachable(resolved, settings)]) + warnings("platform", _open_secrets(settings))


def _unreachable(resolved: Resolved, settings: Settings) -> Iterator[str]:
    """Places that the platform does not call."""
    network = resolved.config.network
    if network.port != _PORT and _BIND_TO_PORT not in settings.environ and network.uds is None:
        source = resolved.source(all_names().setting("port"))
        yield f"--port is {network.port} ({source}), and SageMaker calls port {_PORT}: leave it out"
    if network.host is not None and network.host.startswith(_LOOPBACK):
        source = resolved.source(all_names().setting("host"))
        yield f"--host {network.host} ({source}) can't be reached from outside of the container: leave it out"


def _open_secrets(settings: Settings) -> Iterator[str]:
    """Beside API keys, which are better left out there."""
    for variable in find_variables(settings.environ, all_names()).options:
        setting = variable.meaning.setting
        if (
            setting.option.secret
            and setting.name != "api_key"
            and variable.form in (Form.WHOLE, Form.PART)
            and _is_open(unquoted(settings.environ[variable.name]))
        ):
            yield (
                f"environment {variable.name} holds a secret, which everybody reads who may call DescribeModel: keep it in Secrets Manager "
                f"and name its ARN with SM_VLLM_{setting.name.upper()}_SECRET_ARN"
            )


def _is_open(text: str) -> bool:
    try:
        return bool(text) and secret_place(text) is None
    except BadValue:
        return False
