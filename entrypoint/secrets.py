"""What to say about secrets at the start."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from headway.entrypoint.sagemaker import PLATFORM_DIRECTORY, sagemaker_variables
from headway.server.config.security import SecurityConfig
from headway.server.config.sources import Resolved


def key_warnings(resolved: Resolved, environ: Mapping[str, str], platform_directory: Path = PLATFORM_DIRECTORY) -> list[str]:
    """A sentence if there is an API key where no client can send one."""
    signs = sagemaker_variables(environ) or [str(platform_directory)] * platform_directory.is_dir()
    return keys_in_vain(resolved.config.security, f"if this is SageMaker ({signs[0]} looks like it)") if signs else []


def keys_in_vain(security: SecurityConfig, where: str) -> list[str]:
    """The same sentence for whoever knows it otherwise: ``where`` begins its advice."""
    if not security.has_keys:
        return []
    option = "--api-key" if security.api_key else "--api-key-file"
    return [
        f"{option} is set; {where}, leave the key out: SageMaker takes the Authorization header "
        "off every call, so that all of them are answered 401, and IAM guards the endpoint there"
    ]
