"""What callers read of a container's own errors: a ModelError, with the answer that the container gave."""

from __future__ import annotations

from dataclasses import dataclass

from headway.container.local.control.names import ACCOUNT
from headway.container.local.errors import PlatformError
from headway.container.local.targets import Target
from headway.server.words import cut

# What the platform calls the container of a model that has one: not by its variant, which is what one may expect. Messages and log groups
# are as users have reported them (aws/sagemaker-python-sdk#2955, aws/amazon-sagemaker-examples#4324, and the guide's SageMaker Neo page for
# time-outs, which has "model"); of inference components no message was found.
_CONTAINER = "primary"
_MAX_MESSAGE = 2048  # characters of a Message in botocore's model


@dataclass(frozen=True, slots=True)
class Place:
    """Where the platform would be."""

    region: str
    account: str = ACCOUNT


def model_error(place: Place, endpoint: str, target: Target, status: int, body: bytes) -> PlatformError:
    """Of an answer with a status that is no success."""
    return _error(place, endpoint, target, status, body.decode(errors="replace"))


def timed_out(place: Place, endpoint: str, target: Target) -> PlatformError:
    """No answer within the time that the platform gives."""
    told = (
        f"Your invocation timed out while waiting for a response from container {_CONTAINER}. Review the latency metrics for each "
        "container in Amazon CloudWatch, resolve the issue, and try again."
    )
    return _error(place, endpoint, target, 0, told)


def connection_lost(place: Place, endpoint: str, target: Target) -> PlatformError:
    """No answer, because the container's connection could not be made or was closed."""
    return _error(place, endpoint, target, 0, "An error occurred while handling request as the model process exited.")


def _error(place: Place, endpoint: str, target: Target, status: int, original: str) -> PlatformError:
    side = "client" if 400 <= status < 500 else "server"
    group = f"/aws/sagemaker/InferenceComponents/{target.component}" if target.component else f"/aws/sagemaker/Endpoints/{endpoint}"
    console = f"https://{place.region}.console.aws.amazon.com/cloudwatch/home?region={place.region}#logEventViewer:group={group}"
    before = f'Received {side} error ({status}) from {_CONTAINER} with message "'
    behind = f'". See {console} in account {place.account} for more information.'
    fields: dict[str, str | int] = {
        "OriginalStatusCode": status,
        "OriginalMessage": cut(original, _MAX_MESSAGE),
        "LogStreamArn": f"arn:aws:logs:{place.region}:{place.account}:log-group:{group}",
    }
    return PlatformError(424, "ModelError", before + cut(original, _MAX_MESSAGE - len(before) - len(behind)) + behind, fields)
