"""What a batch transform job was asked for, and, with what the container says of itself, how it is done. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from headway.container.local.control.registry import refused
from headway.container.local.s3_objects import S3Uri

_MAX_PAYLOAD_MB = 100
_DEFAULT_PAYLOAD_MB = 6
_DEFAULT_TIMEOUT_S = 600
_DEFAULT_RETRIES = 3
_MAX_INSTANCES = 8
_MAX_UNLIMITED_BYTES = 1 << 30
_NOT_EMULATED = ("DataCaptureConfig", "DataProcessing", "ExperimentConfig")
_STRATEGIES = {"MULTI_RECORD": "MultiRecord", "SINGLE_RECORD": "SingleRecord"}


@dataclass(frozen=True, slots=True)
class TransformOptions:
    """None where the request leaves it to the container."""

    source: S3Uri
    is_gzip: bool
    is_split: bool
    output: S3Uri
    ends_lines: bool
    headers: Mapping[str, str]
    num_copies: int
    timeout_s: int
    max_retries: int
    max_concurrent: int | None
    max_payload_mb: int | None
    strategy: Literal["MultiRecord", "SingleRecord"] | None

    def environment(self) -> dict[str, str]:
        """What the platform sets in the container beside the job's own variables."""
        known = {
            "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS": self.max_concurrent,
            "SAGEMAKER_MAX_PAYLOAD_IN_MB": self.max_payload_mb,
            "SAGEMAKER_BATCH_STRATEGY": next((name for name, ours in _STRATEGIES.items() if ours == self.strategy), None),
        }
        return {"SAGEMAKER_BATCH": "true"} | {name: str(value) for name, value in known.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Pace:
    max_concurrent: int
    max_payload_bytes: int
    is_multi: bool


def read_options(request: Mapping[str, Any]) -> TransformOptions:
    """A validated CreateTransformJob. Raises PlatformError: ValidationException."""
    if found := [name for name in _NOT_EMULATED if request.get(name)]:
        raise refused(f"{', '.join(found)} is not emulated by this runtime: leave it out where AWS_ENDPOINT_URL_SAGEMAKER is set.")
    given, target, client = request["TransformInput"], request["TransformOutput"], request.get("ModelClientConfig", {})
    source = given["DataSource"].get("S3DataSource")
    if source is None or source["S3DataType"] != "S3Prefix":
        raise refused("TransformInput.DataSource must be an S3DataSource of S3DataType S3Prefix: this runtime reads no manifests.")
    split, strategy = given.get("SplitType", "None"), request.get("BatchStrategy")
    if split not in ("None", "Line"):
        raise refused(f"SplitType {split} is not emulated by this runtime: use Line or None.")
    if strategy and split == "None":
        raise refused(f"BatchStrategy {strategy} needs SplitType Line: without it each object is one payload.")
    num_copies = request["TransformResources"]["InstanceCount"]
    if num_copies > _MAX_INSTANCES:
        raise refused(f"InstanceCount is {num_copies}, and this runtime starts at most {_MAX_INSTANCES} copies for a job.")
    concurrent, payload_mb = request.get("MaxConcurrentTransforms") or None, request.get("MaxPayloadInMB")
    if (payload_mb or 0) > _MAX_PAYLOAD_MB or (concurrent or 0) * (payload_mb or 0) > _MAX_PAYLOAD_MB:
        raise refused(f"MaxPayloadInMB, and MaxConcurrentTransforms times MaxPayloadInMB, must be at most {_MAX_PAYLOAD_MB}.")
    headers = {"Content-Type": given.get("ContentType"), "Accept": target.get("Accept")}
    return TransformOptions(
        source=S3Uri.of(source["S3Uri"], "TransformInput S3Uri"),
        is_gzip=given.get("CompressionType", "None") == "Gzip",
        is_split=split == "Line",
        output=S3Uri.of(target["S3OutputPath"], "S3OutputPath"),
        ends_lines=target.get("AssembleWith", "None") == "Line",
        headers={name: value for name, value in headers.items() if value},
        num_copies=num_copies,
        timeout_s=client.get("InvocationsTimeoutInSeconds", _DEFAULT_TIMEOUT_S),
        max_retries=client.get("InvocationsMaxRetries", _DEFAULT_RETRIES),
        max_concurrent=concurrent,
        max_payload_mb=payload_mb,
        strategy=strategy,
    )


def pace(options: TransformOptions, told: Mapping[str, Any]) -> Pace:
    """What the request says, else what the container said at /execution-parameters, else the platform's defaults. Raises ValueError."""
    concurrent = options.max_concurrent or _number(told, "MaxConcurrentTransforms", 1, 1000) or 1
    payload_mb = options.max_payload_mb
    if payload_mb is None:
        payload_mb = _number(told, "MaxPayloadInMB", 0, _MAX_PAYLOAD_MB)
    if payload_mb is None:
        payload_mb = _DEFAULT_PAYLOAD_MB
    strategy = told.get("BatchStrategy", "MULTI_RECORD")
    if strategy not in _STRATEGIES:
        raise ValueError(f"BatchStrategy is {strategy!r}, not one of {', '.join(_STRATEGIES)}")
    # MaxPayloadInMB 0 is no limit on the platform; here everything has to fit into memory.
    limit_bytes = payload_mb * 1024 * 1024 or _MAX_UNLIMITED_BYTES
    return Pace(concurrent, limit_bytes, (options.strategy or _STRATEGIES[strategy]) == "MultiRecord")


def _number(told: Mapping[str, Any], name: str, least: int, most: int) -> int | None:
    value = told.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{name} is {value!r}, not a number from {least} to {most}")
    return value
