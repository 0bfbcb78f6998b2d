"""Batch transform."""

from __future__ import annotations

import json

from headway.container.conformance.check import Clause, Severity, check
from headway.container.conformance.outcome import NotApplicable, require
from headway.container.conformance.probe import Probe

_PAGE = "your-algorithms-batch-code"
_NUM_LINES = 3
_MAX_PAYLOAD_MB = 100


@check(
    "batch.execution-parameters",
    "GET /execution-parameters, if there, proposes what a job may have",
    Clause(_PAGE, "The optional route answers MaxConcurrentTransforms, BatchStrategy and MaxPayloadInMB."),
)
def execution_parameters(probe: Probe) -> None:
    answer = probe.ask("GET", "/execution-parameters")
    if answer.status in (404, 405):
        raise NotApplicable("there is no such route")
    require(answer.status == 200, f"GET /execution-parameters is answered {answer.status}")
    fields = answer.json()
    require(isinstance(fields, dict), "the answer is no JSON object")
    num, strategy, max_mb = (fields.get(name) for name in ("MaxConcurrentTransforms", "BatchStrategy", "MaxPayloadInMB"))
    require(type(num) is int and num >= 0, f"MaxConcurrentTransforms is {num!r}")
    require(strategy in ("MULTI_RECORD", "SINGLE_RECORD"), f"BatchStrategy is {strategy!r}")
    require(type(max_mb) is int and max_mb >= 0, f"MaxPayloadInMB is {max_mb!r}")
    require(
        num * max_mb <= _MAX_PAYLOAD_MB, f"MaxConcurrentTransforms * MaxPayloadInMB is {num * max_mb}, and CreateTransformJob takes 100"
    )


@check(
    "batch.json-lines",
    "JSON lines are answered line by line",
    Clause(_PAGE, "With SplitType=Line and MultiRecord a request holds several lines, and AssembleWith=Line expects as many."),
    Severity.SHOULD,
)
def json_lines(probe: Probe) -> None:
    lines = json.dumps(probe.shape.body).encode() + b"\n"
    headers = {"content-type": "application/jsonlines", "accept": "application/jsonlines"}
    answer = probe.ask("POST", "/invocations", lines * _NUM_LINES, headers)
    require(answer.status == 200, f"JSON lines are answered {answer.status}")
    answered = answer.content.strip().split(b"\n")
    require(len(answered) == _NUM_LINES, f"{_NUM_LINES} lines are answered with {len(answered)}")
    require(
        all(line.startswith(b"{") and b'"error"' not in line for line in answered), "a line is answered with something else than its answer"
    )
