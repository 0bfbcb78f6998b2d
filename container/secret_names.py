"""What variables of others are called that hold a secret. Pure."""

from __future__ import annotations

import re

_SECRET = re.compile(r"(?i:.*(SECRET|PASSWORD|PASSWD|CREDENTIAL).*|.*(TOKEN|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY))")


def is_secret_name(name: str) -> bool:
    """Of variables that are no options of ours: those say themselves whether they are secrets."""
    return _SECRET.fullmatch(name) is not None
