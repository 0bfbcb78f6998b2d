"""The server's command line out of effective options. Pure."""

from __future__ import annotations

from headway.server.config.given import Origin
from headway.server.config.sources import Resolved, all_settings
from headway.server.config.values import to_flags


def server_arguments(resolved: Resolved) -> list[str]:
    """`serve` and a flag for each option that the command line, the environment or the image set.

    Options of the --config file are left to the server, which reads that file too: they already won over the environment here,
    so no flag contradicts them. Secrets stay in the environment.
    """
    arguments = ["serve"]
    if resolved.config_file is not None:
        arguments.append(f"--config={resolved.config_file}")
    for setting in all_settings():
        origin = resolved.source(setting).origin
        if origin not in (Origin.DEFAULT, Origin.YAML) and not setting.option.secret:
            arguments += to_flags(setting, resolved.value(setting))
    if resolved.show_config:
        arguments.append("--show-config")
    return arguments
