"""What the platform, and callers through it, put into headers."""

from __future__ import annotations

import json
from collections.abc import Mapping

from headway.container.conformance.check import Clause, Severity, check
from headway.container.conformance.outcome import require
from headway.container.conformance.probe import Probe

_CODE = "your-algorithms-inference-code"
_RUNTIME = "botocore sagemaker-runtime"
_ATTRIBUTES = "x-amzn-sagemaker-custom-attributes"
_MAX_ATTRIBUTES = 1024


@check(
    "headers.unknown",
    "Headers that it does not know are ignored",
    Clause(_CODE, "SageMaker may add headers; containers ignore unknown ones."),
)
def unknown(probe: Probe) -> None:
    headers = {
        "x-amzn-trace-id": "Root=1-67891233-abcdef012345678912345678",
        "x-amzn-sagemaker-prefix-aware-id": "conformance",
        "x-amzn-sagemaker-inference-id": "conformance-1",
        "x-amzn-sagemaker-target-variant": "all",
        "x-amzn-sagemaker-some-new-header": "1",
        "x-headway-conformance": "ignored",
    }
    _require_200(probe, headers, "unknown headers")


@check(
    "headers.many",
    "Many and long headers are taken",
    Clause(_CODE, "SageMaker may add headers of its own to the caller's."),
    Severity.SHOULD,
)
def many(probe: Probe) -> None:
    headers = {f"x-conformance-{number}": "v" * 100 for number in range(40)}
    _require_200(probe, {**headers, "x-conformance-long": "v" * 4096}, "41 headers with 8 kB in all")


@check(
    "headers.charset",
    "Content-Type may carry a charset",
    Clause(_RUNTIME, "ContentType is free text of up to 1,024 characters and is passed on."),
)
def charset(probe: Probe) -> None:
    _require_200(probe, {"content-type": "application/json; charset=utf-8"}, "a charset")


@check(
    "headers.no-content-type",
    "A request without Content-Type is answered",
    Clause(_RUNTIME, "ContentType may be left out; the header is then absent."),
)
def no_content_type(probe: Probe) -> None:
    answer = probe.ask("POST", "/invocations", json.dumps(probe.shape.body).encode())
    require(answer.status == 200, f"without Content-Type the answer is {answer.status}")


@check(
    "headers.attributes-echoed",
    "Custom attributes come back, or others in their place",
    Clause(_RUNTIME, "CustomAttributes reach the container in a header; what it returns there, if anything, reaches the caller."),
    Severity.SHOULD,
)
def attributes_echoed(probe: Probe) -> None:
    answer = probe.invoke(headers={_ATTRIBUTES: "trace=conformance"})
    require(answer.headers.get(_ATTRIBUTES), f"the answer has no {_ATTRIBUTES}")


@check(
    "headers.attributes-bounded",
    "Custom attributes in an answer are visible ASCII, at most 1,024 characters",
    Clause(_RUNTIME, "CustomAttributes are at most 1,024 characters of visible ASCII, in both directions."),
)
def attributes_bounded(probe: Probe) -> None:
    for length in (_MAX_ATTRIBUTES, 3 * _MAX_ATTRIBUTES):
        answer = probe.invoke(headers={_ATTRIBUTES: "a" * length})
        returned = answer.headers.get(_ATTRIBUTES, "")
        probe.note(f"{length} characters sent, {len(returned)} returned")
        require(length > _MAX_ATTRIBUTES or answer.status == 200, f"{length} characters are answered {answer.status}")
        require(answer.status < 500, f"{length} characters are answered {answer.status}")
        require(len(returned) <= _MAX_ATTRIBUTES and returned.isascii(), f"the answer has {len(returned)} characters of custom attributes")


def _require_200(probe: Probe, headers: Mapping[str, str], what: str) -> None:
    status = probe.invoke(headers=headers).status
    require(status == 200, f"with {what} the answer is {status}")
