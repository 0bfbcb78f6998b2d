"""A request and its whole answer."""

from __future__ import annotations

from headway.container.conformance.check import Clause, Severity, check
from headway.container.conformance.outcome import Failed, require
from headway.container.conformance.probe import Probe

_CODE = "your-algorithms-inference-code"
_ASYNC = "async-inference"
_OPENAI = "realtime-endpoints-openai-compatible"


@check("invocations.answers", "POST /invocations answers a request", Clause(_CODE, "Inference requests are POSTs to /invocations."))
def answers(probe: Probe) -> None:
    shape = probe.subject.shape
    if shape is None:
        for trial in probe.subject.shape_trials:
            probe.note(trial)
        raise Failed("no chat, prompt or input is answered 200; if the model takes something else, give it with --body FILE")
    answer = probe.invoke()
    require(answer.status == 200, f"a {shape.kind} request is answered {answer.status}")
    answer.json()


@check(
    "invocations.model-missing",
    "A request without `model` is answered",
    Clause(_CODE, "The platform passes the body on as it is and adds no name of a model."),
    Severity.SHOULD,
)
def model_missing(probe: Probe) -> None:
    answer = probe.invoke({name: value for name, value in probe.shape.body.items() if name != "model"})
    require(answer.status == 200, f"without `model` the answer is {answer.status}")


@check(
    "invocations.model-empty",
    'A request with `"model": ""` is answered',
    Clause(_OPENAI, "The endpoint, not the body, selects the model; clients send an empty name."),
    Severity.SHOULD,
)
def model_empty(probe: Probe) -> None:
    answer = probe.invoke({**probe.shape.body, "model": ""})
    require(answer.status == 200, f"with an empty `model` the answer is {answer.status}")


@check(
    "invocations.content-length",
    "A whole answer has a Content-Length and is not chunked",
    Clause(_ASYNC, "The result of an asynchronous invocation is read whole; a chunked reply is not supported there."),
)
def content_length(probe: Probe) -> None:
    answer = probe.invoke()
    require("transfer-encoding" not in answer.headers, "the answer is chunked although no stream was asked for")
    length = answer.headers.get("content-length")
    require(length == str(len(answer.content)), f"Content-Length is {length}, the body has {len(answer.content)} bytes")


@check(
    "invocations.content-type",
    "The answer says what it is: application/json",
    Clause("botocore sagemaker-runtime", "InvokeEndpoint hands the reply's Content-Type to the caller."),
)
def content_type(probe: Probe) -> None:
    kind = probe.invoke().headers.get("content-type", "")
    require(kind.partition(";")[0].strip() == "application/json", f"Content-Type is {kind or 'missing'}")
