"""How the container starts, with `serve` and without, with foreign variables and with bad ones."""

from __future__ import annotations

from headway.container.conformance.check import Clause, Needs, Severity, check
from headway.container.conformance.outcome import NotApplicable, Skipped, require
from headway.container.conformance.probe import Probe
from headway.container.conformance.starts import Boot, Refusal

_CODE = "your-algorithms-inference-code"
_CONTAINER = "botocore sagemaker"
_FIRST_LINE_LIMIT_S = 10.0
_REFUSAL_LIMIT_S = 60.0
# Set by the platform and the Python SDK, or left over from other containers.
_FOREIGN = {
    "SAGEMAKER_CONTAINER_LOG_LEVEL": "20",
    "SAGEMAKER_MODEL_SERVER_TIMEOUT": "3600",
    "SAGEMAKER_MODEL_SERVER_WORKERS": "1",
    "SAGEMAKER_PROGRAM": "inference.py",
    "SAGEMAKER_REGION": "us-east-1",
    "SAGEMAKER_SAFE_PORT_RANGE": "21000-21100",
    "SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/model/code",
    "SAGEMAKER_CONFORMANCE_UNKNOWN": "1",
    "SM_CONFORMANCE_UNKNOWN": "1",
    "SM_NUM_GPUS": "1",
}


@check(
    "start.serve",
    "Started with the word `serve` it becomes ready",
    Clause(_CODE, "The container is run as `docker run IMAGE serve`."),
    needs=Needs.IMAGE,
)
def serve(probe: Probe) -> None:
    boot = _boot(probe)
    require(boot.ready_s is not None, boot.problem)


@check(
    "start.no-word",
    "Started without a word it becomes ready",
    Clause(_CODE, "`serve` overrides CMD; the same image is tried out with plain `docker run IMAGE`."),
    Severity.SHOULD,
    Needs.IMAGE,
)
def no_word(probe: Probe) -> None:
    probe.note(f"ready after {probe.starts.start_ready(probe.starts.plan(words=())):.1f} s")


@check(
    "start.loading",
    "/ping is not 200 before an invocation is answered, and stays 200 then",
    Clause(_CODE, "Traffic begins when /ping is consistently 200."),
    needs=Needs.IMAGE,
)
def loading(probe: Probe) -> None:
    boot = _boot(probe)
    if boot.ready_s is None:
        raise NotApplicable("the container did not become ready")
    if boot.first_use is not None and 400 <= boot.first_use < 500:
        raise Skipped("no request was found that /invocations answers (see invocations.answers; --body FILE gives one)")
    require(boot.first_use == 200, f"/ping was 200, and an invocation at that moment was answered {boot.first_use or 'not at all'}")
    require(boot.later_status == 200, f"after the first 200 /ping is {boot.later_status}")


@check(
    "start.first-line",
    "The first line of the log comes within 10 s",
    Clause("logging-cloudwatch", "A container that ends before its first line leaves no log group at all."),
    Severity.SHOULD,
    Needs.IMAGE,
)
def first_line(probe: Probe) -> None:
    boot = _boot(probe)
    require(boot.first_line_s is not None, "the container logs nothing")
    require(boot.first_line_s is not None and boot.first_line_s < _FIRST_LINE_LIMIT_S, f"it came after {boot.first_line_s} s")


@check(
    "start.foreign-variables",
    "Unknown SM_* and SAGEMAKER_* variables do no harm",
    Clause(_CONTAINER, "Environment carries what the platform and its SDK add to the user's variables."),
    needs=Needs.IMAGE,
)
def foreign_variables(probe: Probe) -> None:
    starts = probe.starts
    added = {name: value for name, value in _FOREIGN.items() if name not in starts.environ}
    probe.note(f"with {', '.join(added)}: ready after {starts.start_ready(starts.plan(added)):.1f} s")


@check(
    "start.bad-option-exits",
    "A bad option ends it with a status other than 0 within a minute",
    Clause(_CODE, "A container that neither answers nor ends holds its instance for the whole start-up window."),
    needs=Needs.IMAGE,
)
def bad_option_exits(probe: Probe) -> None:
    refusal = _refusal(probe)
    require(refusal.exit_status is not None, f"it still runs after {_REFUSAL_LIMIT_S:g} s")
    require(refusal.exit_status != 0, "it ends with status 0, as if all were well")


@check(
    "start.bad-option-reason",
    "Its last line names the bad option",
    Clause("logging-cloudwatch", "The log is all that tells why an endpoint did not come up, and its last line is read first."),
    Severity.SHOULD,
    Needs.IMAGE,
)
def bad_option_reason(probe: Probe) -> None:
    refusal = _refusal(probe)
    option = refusal.variable.removeprefix("SM_VLLM_")
    said = refusal.last_line.lower()
    names = {name.lower() for name in (refusal.variable, option, option.replace("_", "-"))}
    require(any(name in said for name in names), f"the last line does not name {refusal.variable}: {refusal.last_line}")


def _boot(probe: Probe) -> Boot:
    boot = probe.starts.boot
    probe.note(
        f"/ping: {', '.join('no answer' if status is None else str(status) for status in boot.statuses)}; "
        f"first line after {_seconds(boot.first_line_s)}, ready after {_seconds(boot.ready_s)}"
    )
    return boot


def _refusal(probe: Probe) -> Refusal:
    refusal = probe.starts.refusal
    probe.note(
        f"{refusal.variable}={refusal.value}: status {refusal.exit_status} after {refusal.duration_s:.1f} s, last line: {refusal.last_line}"
    )
    return refusal


def _seconds(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.2f} s"
