"""What becomes of secrets in the container's environment."""

from __future__ import annotations

from headway.container.conformance.check import Clause, Needs, Severity, check
from headway.container.conformance.outcome import require
from headway.container.conformance.probe import Probe

_CLAUSE = Clause("logging-cloudwatch", "The log goes to CloudWatch, where more people read than may know a token.")


@check("secrets.log", "Tokens and keys of the environment are not logged", _CLAUSE, needs=Needs.IMAGE)
def log(probe: Probe) -> None:
    _require_hidden(probe, probe.starts.guarded.log, "the log")


@check(
    "secrets.command-line",
    "They stand in no process' arguments",
    Clause("your-algorithms-inference-code", "Arguments of processes are seen by everybody on the host."),
    Severity.SHOULD,
    Needs.IMAGE,
)
def command_line(probe: Probe) -> None:
    _require_hidden(probe, probe.starts.guarded.command_lines, "a command line")


def _require_hidden(probe: Probe, text: str, where: str) -> None:
    """The values are made up for this run, so that a name is all that evidence needs."""
    secrets = probe.starts.guarded.secrets
    found = [name for name, value in secrets.items() if value in text]
    probe.note(f"{', '.join(secrets)} were set; {len(text)} characters looked at")
    require(not found, f"{where} holds the value of {', '.join(found)}")
