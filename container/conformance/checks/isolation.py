"""A container that may write nowhere, is nobody, and knows no network. (That it has 64 MB of /dev/shm is true of every copy.)"""

from __future__ import annotations

from dataclasses import replace

from headway.container.conformance.check import Clause, Needs, Severity, check
from headway.container.conformance.engines.base import Start
from headway.container.conformance.outcome import NotApplicable
from headway.container.conformance.probe import Probe

_CODE = "your-algorithms-inference-code"
_ANYBODY = "12345:12345"


@check(
    "isolation.read-only",
    "It serves with a read-only root, /tmp apart",
    Clause(_CODE, "/opt/ml/model must not be written to; what a hardened host gives is a read-only root."),
    Severity.SHOULD,
    Needs.IMAGE,
)
def read_only(probe: Probe) -> None:
    _start(probe, replace(_plan(probe), is_read_only=True))


@check(
    "isolation.any-user",
    "It serves as a user that is not root and has no name",
    Clause(_CODE, "SageMaker starts it as root; other platforms as any user."),
    Severity.SHOULD,
    Needs.IMAGE,
)
def any_user(probe: Probe) -> None:
    _start(probe, replace(_plan(probe), user=_ANYBODY))


@check(
    "isolation.no-network",
    "With a local model it serves without a network",
    Clause("mkt-algo-model-internet-free", "With EnableNetworkIsolation a container can make no network call, and has no AWS credentials."),
    needs=Needs.IMAGE,
)
def no_network(probe: Probe) -> None:
    with probe.starts.running(replace(_plan(probe), is_offline=True)) as copy:
        probe.note(f"ready after {probe.starts.wait_ready(copy, inside=True):.1f} s")


def _plan(probe: Probe) -> Start:
    if not probe.starts.engine.isolates:
        raise NotApplicable("a command can't be isolated; give an image")
    return probe.starts.plan()


def _start(probe: Probe, start: Start) -> None:
    probe.note(f"ready after {probe.starts.start_ready(start):.1f} s")
