"""What the container says first, before anything slow."""

from __future__ import annotations

from headway import __version__
from headway.server.config.show import differences
from headway.server.config.sources import Resolved


def banner(resolved: Resolved) -> str:
    """A few lines: version, and each option that is not left at its default with its source; secrets masked."""
    lines = [f"headway {__version__}"]
    lines += [f"  {setting.key} = {text}   ({source})" for setting, text, source in differences(resolved)]
    if resolved.config_file:
        lines.append(f"  config file {resolved.config_file}")
    return "\n".join(lines) + "\n"
