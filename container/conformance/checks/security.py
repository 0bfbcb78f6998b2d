"""Who may reach what."""

from __future__ import annotations

from typing import Any

from headway.container.conformance.check import Clause, check
from headway.container.conformance.exchange import Exchange
from headway.container.conformance.outcome import Failed, NotApplicable, require
from headway.container.conformance.probe import Probe

_RUNTIME = "botocore sagemaker-runtime"
_ATTRIBUTES = "x-amzn-sagemaker-custom-attributes"
# Not for inference: whoever may call InvokeEndpoint must not reach them.
_MANAGEMENT = ("/metrics", "/adapters", "/v1/load_lora_adapter", "/sleep", "/openapi.json", "/server_info", "/../metrics", "//metrics")
_GUARDED = ("/invocations", "/v1/chat/completions", "/adapters")


@check(
    "security.routes",
    "Custom attributes lead to no management route",
    Clause(_RUNTIME, "Whoever may invoke an endpoint chooses CustomAttributes; some containers take `route=/path` there."),
)
def routes(probe: Probe) -> None:
    model_answer = _form(probe.invoke().json())
    for path in _MANAGEMENT:
        answer = probe.invoke(headers={_ATTRIBUTES: f"route={path}"})
        is_ignored = answer.status == 200 and _is_of_form(answer, model_answer)
        is_refused = answer.status in (400, 403, 404) and not answer.text.startswith("# ")
        require(is_ignored or is_refused, f"route={path} is answered {answer.status}, and not with the model's answer")


@check(
    "security.key",
    "Where a key is set, every route for inference and management needs it",
    Clause(
        "your-algorithms-inference-code",
        "SageMaker signs calls itself and strips Authorization; outside of it a key must guard all routes.",
    ),
)
def key(probe: Probe) -> None:
    if not probe.subject.secrets:
        raise NotApplicable("no API key was given")
    for path in _GUARDED:
        status = probe.post(path, probe.shape.body, with_key=False).status
        require(status in (401, 403, 404), f"POST {path} without a key is answered {status}")


def _is_of_form(answer: Exchange, form: list[str]) -> bool:
    try:
        return _form(answer.json()) == form
    except Failed:
        return False


def _form(value: Any) -> list[str]:
    """By what a model's answer is told from another route's: its fields, or what JSON it is."""
    return sorted(value) if isinstance(value, dict) else [type(value).__name__]
