"""The image itself, and where its containers listen."""

from __future__ import annotations

from headway.container.conformance.check import Clause, Needs, Severity, check
from headway.container.conformance.engines.base import DEFAULT_PORT, ImageFacts, Start
from headway.container.conformance.outcome import NotApplicable, require
from headway.container.conformance.probe import Probe
from headway.container.conformance.starts import BIND_TO_PORT, require_free_default_port
from headway.server.bench.server_process import free_port

_CODE = "your-algorithms-inference-code"
_PIPELINE = "inference-pipeline-real-time"
_LABEL = "com.amazonaws.sagemaker.capabilities.accept-bind-to-port"
_SHELLS = ("sh", "bash", "dash", "ash")


@check(
    "image.exec-form",
    "ENTRYPOINT has the exec form",
    Clause(_CODE, "In the shell form process 1 is a shell, which passes no SIGTERM on."),
    needs=Needs.IMAGE,
)
def exec_form(probe: Probe) -> None:
    words = _facts(probe).entrypoint
    probe.note(f"ENTRYPOINT {list(words)}")
    is_shell = len(words) > 1 and words[0].rpartition("/")[2] in _SHELLS and words[1] == "-c"
    require(not is_shell, "ENTRYPOINT is a line for a shell")


@check(
    "image.label",
    "The label accept-bind-to-port is set",
    Clause(_PIPELINE, f"The label {_LABEL}=true says that the container takes its port from {BIND_TO_PORT}."),
    Severity.SHOULD,
    Needs.IMAGE,
)
def label(probe: Probe) -> None:
    value = _facts(probe).labels.get(_LABEL)
    require(value == "true", f"{_LABEL} is {value or 'missing'}")


@check(
    "image.default-port",
    "It listens on 8080 unless told otherwise",
    Clause(_CODE, "The web server listens on port 8080."),
    needs=Needs.IMAGE,
)
def default_port(probe: Probe) -> None:
    starts = probe.starts
    if not starts.engine.has_networks:
        require_free_default_port()
    probe.note(f"ready on {DEFAULT_PORT} after {starts.start_ready(Start(starts.environ)):.1f} s")


@check(
    "image.bind-to-port",
    f"{BIND_TO_PORT} moves it to another port",
    Clause(_PIPELINE, f"In pipelines and multi-container endpoints the platform says in {BIND_TO_PORT} where to listen."),
    needs=Needs.IMAGE,
)
def bind_to_port(probe: Probe) -> None:
    starts, port = probe.starts, free_port()
    plan = Start({**starts.environ, BIND_TO_PORT: str(port)}, port=port)
    probe.note(f"ready on {port} after {starts.start_ready(plan):.1f} s")


def _facts(probe: Probe) -> ImageFacts:
    facts = probe.starts.engine.facts()
    if facts is None:
        raise NotApplicable("a command stands in the place of an image")
    return facts
