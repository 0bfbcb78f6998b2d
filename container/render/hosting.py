"""What SageMaker needs to know beside the container; what it would refuse, before it does."""

from __future__ import annotations

import argparse
import re

from headway.container.instances import Instance
from headway.container.render.arguments import DOWNLOAD_TIMEOUT_S
from headway.container.render.deployment import AsyncOutput, Hosting, Scale
from headway.container.render.image import ecr_image
from headway.entrypoint.drivers import AMIS, ami_for, shown
from headway.entrypoint.foreign import MODEL_DIRECTORY
from headway.entrypoint.sagemaker import unreachable_flags
from headway.server.config.server import ServerConfig

PORT = 8080
_ROLE = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+", re.ASCII)
_KEY = re.compile(r"arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:key/[\w-]+", re.ASCII)
_TOPIC = re.compile(r"arn:aws[a-z-]*:sns:[a-z0-9-]*:\d{12}:[\w.-]+", re.ASCII)
_PLACE = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/\S*)?")
_ACCOUNT = re.compile(r"\d{12}", re.ASCII)
_CUDA = re.compile(r"(\d{1,2})\.(\d{1,2})", re.ASCII)
_MAX_CONCURRENT = 1000
_ASYNC_DETAILS = ("async_failure", "async_input", "success_topic", "error_topic")


def read_hosting(
    given: argparse.Namespace, config: ServerConfig | None, instance: Instance | None, scale: Scale, problems: list[str]
) -> Hosting | None:
    """None, with a sentence in ``problems``, where an instance or an image of ECR is missing; other problems are added too."""
    image = ecr_image(given.image)
    if image is None:
        problems.append(
            f"--image {given.image}: SageMaker pulls from ECR alone, ACCOUNT.dkr.ecr.REGION.amazonaws.com/REPOSITORY:TAG; "
            "`headway push` puts an image there"
        )
    if given.instance is None:
        problems.append("--instance is missing, as in --instance ml.g6.xlarge; `headway check` tells which types fit the model")
    problems += _argument_problems(given) + (_container_problems(given, config) if config else [])
    if image is None or instance is None:
        return None
    region = given.region or image.region
    hosting = Hosting(
        instance=instance,
        image=image,
        partition=_partition(region, problems),
        region=region,
        account=given.account or image.account,
        role=given.role,
        makes_role=given.role is None and not given.no_iam,
        ami=_ami(given.cuda, instance, problems),
        kms_key=given.kms_key,
        volume_gb=given.volume_size,
        download_timeout_s=given.download_timeout,
        asynchronous=_asynchronous(given, scale),
    )
    if hosting.volume_gb and hosting.has_own_disk:
        problems.append(f"--volume-size: {instance.name} has a disk of its own, and SageMaker gives it no other: leave the option out")
    if hosting.kms_key and hosting.has_own_disk and not hosting.makes_role and hosting.asynchronous is None:
        problems.append(f"--kms-key: {instance.name} encrypts its disk by itself, and nothing else here takes a key: leave the option out")
    return hosting


def _argument_problems(given: argparse.Namespace) -> list[str]:
    rules = (
        ("role", _ROLE, "the ARN of a role, arn:aws:iam::ACCOUNT:role/NAME"),
        ("kms_key", _KEY, "the ARN of a key, arn:aws:kms:REGION:ACCOUNT:key/ID, which the role's rights need"),
        ("account", _ACCOUNT, "twelve digits"),
        ("async_output", _PLACE, "s3://BUCKET/PREFIX"),
        ("async_failure", _PLACE, "s3://BUCKET/PREFIX"),
        ("async_input", _PLACE, "s3://BUCKET/PREFIX"),
        ("success_topic", _TOPIC, "the ARN of an SNS topic"),
        ("error_topic", _TOPIC, "the ARN of an SNS topic"),
    )
    values = {name: getattr(given, name) for name, _, _ in rules}
    found = [
        f"{_flag(name)} must be {form}, got {values[name]!r}"
        for name, pattern, form in rules
        if values[name] is not None and not pattern.fullmatch(values[name])
    ]
    if given.async_output is None and (alone := [_flag(name) for name in _ASYNC_DETAILS if values[name] is not None]):
        found.append(f"{', '.join(alone)}: asynchronous inference needs --async-output too")
    if given.download_timeout != DOWNLOAD_TIMEOUT_S and given.model_data is None:
        found.append("--download-timeout: SageMaker downloads nothing without --model-data; --startup-timeout covers the container's own")
    if given.account is not None and (given.role is not None or given.no_iam):
        found.append("--account: only a role that is made here names it; leave it out")
    if given.async_output is not None and given.adapter:
        found.append("--async-output and --adapter: SageMaker has no asynchronous inference components; deploy two endpoints")
    return found


def _container_problems(given: argparse.Namespace, config: ServerConfig) -> list[str]:
    """Options with which the container would start and could not be reached, or would have no model."""
    found = [f"{flag} cannot be used on SageMaker, which speaks plain HTTP to a port: leave it out" for flag in unreachable_flags(config)]
    if config.network.port != PORT:
        found.append(f"--port {config.network.port} cannot be used on SageMaker, which calls port {PORT}: leave it out")
    if given.model_dir is not None and given.model_data is None:
        found.append(
            f"--model-dir {given.model_dir} is on this machine: upload it to S3 and name the prefix with --model-data, which SageMaker "
            f"puts into {MODEL_DIRECTORY}"
        )
    return found


def _partition(region: str, problems: list[str]) -> str:
    from botocore.exceptions import UnknownRegionError
    from botocore.session import get_session

    try:
        return str(get_session().get_partition_for_region(region))
    except UnknownRegionError:
        problems.append(f"--region {region}: unknown region; it is as in us-east-1")
        return "aws"


def _ami(cuda: str, instance: Instance, problems: list[str]) -> str | None:
    if instance.gpu is None:
        return None
    match = _CUDA.fullmatch(cuda)
    ami = ami_for((int(match[1]), int(match[2]))) if match else None
    if ami is None:
        problems.append(f"--cuda {cuda}: no InferenceAmiVersion has a driver for it; the newest has one for {shown(AMIS[-1].cuda)}")
        return None
    return ami.name


def _asynchronous(given: argparse.Namespace, scale: Scale) -> AsyncOutput | None:
    if given.async_output is None:
        return None
    most = min(scale.rows, _MAX_CONCURRENT)
    return AsyncOutput(given.async_output, given.async_failure, given.async_input, given.success_topic, given.error_topic, most)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
