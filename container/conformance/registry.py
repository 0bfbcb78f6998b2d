"""All checks, in the order in which they are made."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from types import ModuleType

from headway.container.conformance.check import Check
from headway.server.errors import ConfigError


def all_checks() -> list[Check]:
    """Of each topic those that its module defines, in their order."""
    return [value for topic in _topics() for value in vars(topic).values() if isinstance(value, Check)]


def chosen(only: Sequence[str], skip: Sequence[str]) -> list[Check]:
    """By ids or topics (`ping`). Raises ConfigError for what is neither."""
    checks = all_checks()
    known = {name for check in checks for name in (check.id, check.topic)}
    for option, names in (("--only", only), ("--skip", skip)):
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                raise ConfigError(
                    [f"{option} {name}: no check or topic is called so; {f'did you mean {near[0]}?' if near else '--list shows all'}"]
                )
    return [check for check in checks if _is_in(check, only, True) and not _is_in(check, skip, False)]


def _is_in(check: Check, names: Sequence[str], if_none: bool) -> bool:
    return check.id in names or check.topic in names if names else if_none


def _topics() -> tuple[ModuleType, ...]:
    from headway.container.conformance.checks import (
        adapters,
        batch,
        bidirectional,
        errors,
        headers,
        image,
        invocations,
        isolation,
        metrics,
        openai,
        ping,
        secrets,
        security,
        sessions,
        start,
        stop,
        streams,
    )

    of_a_server = (ping, invocations, headers, streams, errors, openai, metrics, batch, adapters, sessions, bidirectional, security)
    return (*of_a_server, start, image, isolation, stop, secrets)
