"""How a process sets up its logging from the options: our own format, the user's dictConfig, or not at all."""

from __future__ import annotations

import json
import logging
import logging.config
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headway.server.config.logs import LogConfig
from headway.server.errors import ConfigError
from headway.server.log import configure_logging, guard_every_record

_MAX_BYTES = 4 * 1024 * 1024


def set_up_logging(logs: LogConfig, role: str, secrets: Sequence[str] = ()) -> None:
    """``role`` names the process ("api", "engine"). Whoever formats, ``secrets`` are masked and a message is one line.

    Raises ConfigError for a --log-config that can't be used. Safe to repeat.
    """
    if not logs.configure_logging:
        guard_every_record(role, secrets)
        return
    stream = sys.stdout if logs.log_stream == "stdout" else sys.stderr
    is_colored = logs.log_color == "always" or (logs.log_color == "auto" and stream.isatty())
    configure_logging(
        logs.log_level, role, secrets, stream, as_json=logs.is_json, prefix=logs.log_prefix, is_colored=is_colored and not logs.is_json
    )
    if logs.log_config is not None:
        guard_every_record(role, secrets)
        _apply(logs.log_config)


def _apply(path: str) -> None:
    """Over what is set up: loggers that the file does not name go on as before."""
    config = _read(path)
    try:
        # Python's default would silence every logger that exists already, ours among them.
        logging.config.dictConfig({"disable_existing_loggers": False, **config})
    except (ValueError, TypeError, AttributeError, ImportError) as error:
        cause = f": {error.__cause__}" if error.__cause__ else ""
        raise _unusable(path, f"is not what Python's logging takes: {error}{cause}") from None


def _read(path: str) -> dict[str, Any]:
    try:
        with Path(path).expanduser().open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: ~nobody; ValueError: a NUL in the path
        raise _unusable(path, f"can't be read: {getattr(error, 'strerror', None) or error}") from None
    if len(content) > _MAX_BYTES:
        raise _unusable(path, f"is larger than {_MAX_BYTES // 1024**2} MiB")
    config = _parsed(path, content)
    if not isinstance(config, dict):
        raise _unusable(path, 'must hold an object as logging.config.dictConfig takes it, such as {"version": 1, "root": {..}}')
    return config


def _parsed(path: str, content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        import yaml  # takes as long to import as all the rest, and few need it

        try:
            return yaml.safe_load(content)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise _unusable(path, f"is neither JSON nor YAML: {' '.join(str(error).split())}") from None


def _unusable(path: str, why: str) -> ConfigError:
    return ConfigError([f"--log-config {path}: {why}"])
