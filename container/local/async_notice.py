"""What the platform publishes to SNS of an asynchronous inference that has ended. Pure."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Collection
from typing import Any

from headway.container.local.async_request import AsyncRequest
from headway.container.local.container_call import Reply
from headway.server.say import timestamp

# The names in IncludeInferenceResponseIn, and the longest answer that a notice holds.
SUCCESS_TOPIC = "SUCCESS_NOTIFICATION_TOPIC"
ERROR_TOPIC = "ERROR_NOTIFICATION_TOPIC"
_MAX_INCLUDED_BYTES = 128 * 1024


def notice(
    request: AsyncRequest,
    endpoint: str,
    received: float,
    region: str,
    reply: Reply | None,
    reason: str | None,
    included: Collection[str],
) -> str:
    """The message, JSON. ``reason`` is None for a success; ``reply`` is the container's, if it gave one."""
    asked = {
        "accept": request.members.get("Accept"),
        "contentType": request.content_type,
        "endpointName": endpoint,
        "inputLocation": str(request.input_uri or "") or None,
    }
    message: dict[str, Any] = {
        "awsRegion": region,
        "eventTime": timestamp(time.time()),
        "receivedTime": timestamp(received),
        "invocationStatus": "Failed" if reason else "Completed",
        "requestParameters": {name: value for name, value in asked.items() if value is not None},
        "inferenceId": request.inference_id,
        "eventVersion": "1.0",
        "eventSource": "aws:sagemaker",
        "eventName": "InferenceResult",
    }
    if reason:
        message["failureReason"] = reason
        location = {"failureLocation": str(request.failure)} if request.failure else {}
    else:
        location = {"outputLocation": str(request.output)}
    if reply or location:
        message["responseParameters"] = ({"contentType": reply.content_type} if reply else {}) | location
    if reply and (ERROR_TOPIC if reason else SUCCESS_TOPIC) in included:
        message |= _response_body(reply)
    return json.dumps(message)


def _response_body(reply: Reply) -> dict[str, Any]:
    reply.content.seek(0)
    content = reply.content.read(_MAX_INCLUDED_BYTES + 1)
    if len(content) > _MAX_INCLUDED_BYTES:
        return {}
    return {"responseBody": {"content": base64.b64encode(content).decode(), "encoding": "BASE64"}}
