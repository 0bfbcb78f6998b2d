"""Where this runtime says that it is, and what it calls things: the ARNs of a made-up account."""

from __future__ import annotations

from dataclasses import dataclass

ACCOUNT = "123456789012"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of thing that has names: as an ARN has it, and as a sentence has it."""

    path: str
    noun: str


MODEL = Kind("model", "model")
ENDPOINT_CONFIG = Kind("endpoint-config", "endpoint configuration")
ENDPOINT = Kind("endpoint", "endpoint")
COMPONENT = Kind("inference-component", "inference component")


def arn(region: str, kind: Kind, name: str) -> str:
    return f"arn:aws:sagemaker:{region}:{ACCOUNT}:{kind.path}/{name}"
