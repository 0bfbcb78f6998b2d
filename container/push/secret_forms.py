"""Texts that give a secret away: some by their form, some by the name of the variable. Pure; a value is never repeated."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from headway.container.secret_names import is_secret_name
from headway.server.config.environment import secret_variables
from headway.server.config.references import secret_place
from headway.server.config.sources import all_names
from headway.server.config.values import BadValue


@dataclass(frozen=True, slots=True)
class Finding:
    """``place`` is where to look, in words; ``is_certain``: an image with it is not pushed, others are a warning."""

    place: str
    what: str
    is_certain: bool

    def __str__(self) -> str:
        return f"{self.place}: {self.what}"


# As the services that issue them document their forms.
_FORMS = (
    ("a private key", re.compile(r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----")),
    ("an AWS access key id", re.compile(r"\b(?:AKIA|ASIA)(?![A-Z0-9]{9}EXAMPLE\b)[A-Z0-9]{16}\b")),
    ("a Hugging Face token", re.compile(r"\bhf_[A-Za-z0-9]{30,}\b")),
    ("a GitHub token", re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{60,})\b")),
    ("a GitLab token", re.compile(r"\bglpat-[A-Za-z0-9_-]{20,}")),
    ("an OpenAI or Anthropic key", re.compile(r"\bsk-(?:proj-|ant-)[A-Za-z0-9_-]{20,}")),
    ("a Slack token", re.compile(r"\bxox[abprs]-[A-Za-z0-9-]{20,}")),
    ("a PyPI token", re.compile(r"\bpypi-AgE[A-Za-z0-9_-]{50,}")),
    ("a URL with a password", re.compile(r"\bhttps?://[^\s/:@\"'$]+:[^\s/:@\"'${]+@")),
)
_FOREIGN_SECRETS = frozenset(("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"))
_ASSIGNMENT = re.compile(r"""(?:^|[\s;|&])([A-Za-z_][A-Za-z0-9_]*)=("[^"]*"|'[^']*'|[^\s;|&]*)""")


def known_form(text: str) -> str | None:
    """What secret stands somewhere in ``text``, as far as its form tells."""
    return next((what for what, form in _FORMS if form.search(text)), None)


def in_variables(variables: Mapping[str, str], place: str) -> list[Finding]:
    """Secrets among variables; a value that only says where one stands is none."""
    known = _FOREIGN_SECRETS.union(secret_variables(variables, all_names()))
    found = []
    for name, value in variables.items():
        if not value or _is_elsewhere(name, value):
            continue
        if what := known_form(value):
            found.append(Finding(f"{place} {name}", what, True))
        elif name in known:
            found.append(Finding(f"{place} {name}", "a secret", True))
        elif is_secret_name(name) or name.upper().rpartition("_")[2] == "KEY":
            found.append(Finding(f"{place} {name}", "a secret, to judge by the name", False))
    return found


def in_text(text: str, place: str, except_for: Mapping[str, str] | None = None) -> list[Finding]:
    """Secrets in commands or lines NAME=VALUE. Variables of ``except_for`` with the same value have been judged already."""
    known = except_for or {}
    variables = {name: value.strip("\"'") for name, value in _ASSIGNMENT.findall(text)}
    fresh = {name: value for name, value in variables.items() if known.get(name) != value}
    found = in_variables(fresh, f"{place},")
    if what := known_form(_ASSIGNMENT.sub(" ", text)):
        found.append(Finding(place, what, True))
    return found


def _is_elsewhere(name: str, value: str) -> bool:
    if value.startswith("$") or name.upper().endswith(("_FILE", "_PATH", "_DIR")):
        return True
    try:
        return secret_place(value) is not None
    except BadValue:
        return False
