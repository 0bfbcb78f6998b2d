"""The server's command line out of effective options. Pure."""

from __future__ import annotations

import os
from typing import Any

from headway.server.config.fields import Setting
from headway.server.config.given import Origin
from headway.server.config.sources import Resolved, all_settings
from headway.server.config.values import to_flags

MAX_STRING_BYTES = 131_071  # of one argument or one variable: Linux' MAX_ARG_STRLEN without the closing NUL


def server_arguments(resolved: Resolved) -> list[str]:
    """`serve` and a flag for each option that is not left at its default, the --config file's too: the server reads no place again.

    What can't stand on a command line, secrets above all, is left to handover.py.
    """
    return [
        "serve",
        *(flag for setting, value in asked(resolved) if fits_command_line(setting, value) for flag in to_flags(setting, value)),
    ]


def asked(resolved: Resolved) -> list[tuple[Setting, Any]]:
    """The options that some source set."""
    return [(s, resolved.value(s)) for s in all_settings() if resolved.source(s).origin is not Origin.DEFAULT]


def fits_command_line(setting: Setting, value: Any) -> bool:
    return not setting.option.secret and all(fits_exec(flag) for flag in to_flags(setting, value))


def fits_exec(string: str) -> bool:
    """Whether execve takes a string of this kind."""
    return "\0" not in string and len(os.fsencode(string)) <= MAX_STRING_BYTES
