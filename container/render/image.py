"""The address of an image in ECR, taken apart. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ECR = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr(?:-fips)?\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?"
    r"/(?P<repository>[a-z0-9][a-z0-9._/-]*)(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?",
    re.ASCII,
)
MAX_ADDRESS = 255


@dataclass(frozen=True, slots=True)
class EcrImage:
    account: str
    region: str
    repository: str


def ecr_image(address: str) -> EcrImage | None:
    """None for an image that is elsewhere."""
    if len(address) > MAX_ADDRESS or not (match := _ECR.fullmatch(address)):
        return None
    return EcrImage(**match.groupdict())
