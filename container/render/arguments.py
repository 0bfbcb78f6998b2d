"""The options of `headway render`, beside those of the container itself."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from headway.container import settings

DOWNLOAD_TIMEOUT_S = 1800


def parser(targets: Sequence[str], hosted: Sequence[str]) -> argparse.ArgumentParser:
    """``hosted`` are the targets on SageMaker."""
    made = argparse.ArgumentParser(
        prog="headway render",
        description="Prints what deploys a container: a script, a template, or files for other machines.",
        allow_abbrev=False,
    )
    made.add_argument("target", choices=targets, help="what to print")
    made.add_argument("-o", "--output", metavar="FILE", help="write to a file, which must not exist")
    made.add_argument("--name", default="headway", help="of the endpoint, and what others' names begin with (default: headway)")
    made.add_argument("--image", required=True, help="the image's address in its registry")
    made.add_argument("--model-data", metavar="S3URI", help="the model in S3, for /opt/ml/model: s3://BUCKET/PREFIX/ or a .tar.gz")
    made.add_argument(
        "--adapter", action="append", default=[], metavar="NAME=S3URI", help="a LoRA adapter as a .tar.gz in S3, repeated; turns LoRA on"
    )
    made.add_argument("--min-copies", type=_count, default=1, metavar="N", help="copies at least (default: 1)")
    made.add_argument("--max-copies", type=_count, metavar="N", help="copies at most; above --min-copies their number follows the load")
    made.add_argument("--concurrency", type=_count, metavar="N", help="open requests a copy to aim at (default: 70%% of --max-num-seqs)")
    made.add_argument("--startup-timeout", type=_seconds, default=1800, metavar="S", help="until a copy must be ready (default: 1800)")
    made.add_argument("--tag", action="append", default=[], metavar="KEY=VALUE", help="a tag of everything that is made, repeated")
    made.add_argument("--instance", metavar="TYPE", help="the instance type, as ml.g6.xlarge")
    _add_cluster(made.add_argument_group("on Kubernetes"))
    _add_hosting(made.add_argument_group(f"on SageMaker ({', '.join(hosted)})"))
    settings.add_arguments(made)
    return made


def in_vain(given: argparse.Namespace, *, on_sagemaker: bool) -> list[str]:
    """A sentence for each option that is given and that the target does not read, with the others as they are."""
    found = [] if on_sagemaker else _unread(given, _add_hosting, "targets on SageMaker")
    scaling = {"--concurrency": given.concurrency}
    if given.target == "kubernetes":
        scaling["--prometheus"] = given.prometheus
    else:
        found += _unread(given, _add_cluster, "kubernetes")
    if (given.max_copies or 0) <= given.min_copies:
        unread = [flag for flag, value in scaling.items() if value is not None]
        found += [f"{flag}: copies follow the load only with --max-copies above --min-copies; set that, or leave it out" for flag in unread]
    return found


def _unread(given: argparse.Namespace, add: Callable[[argparse._ArgumentGroup], None], readers: str) -> list[str]:
    bare = argparse.ArgumentParser(add_help=False)
    add(bare.add_argument_group())
    unread = [name for name, default in vars(bare.parse_args([])).items() if getattr(given, name) != default]
    return [f"--{name.replace('_', '-')}: {given.target} has no use for it, only {readers}; leave it out" for name in unread]


def _add_cluster(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--prometheus", metavar="URL", help="scale by KEDA, which asks this Prometheus (without: by the Prometheus adapter's metrics)"
    )


def _add_hosting(group: argparse._ArgumentGroup) -> None:
    role = group.add_mutually_exclusive_group()
    role.add_argument("--role", metavar="ARN", help="an execution role that exists; without it one is made")
    role.add_argument("--no-iam", action="store_true", help="make no role: its ARN is asked for where the rendered text is run")
    group.add_argument("--region", help="default: the image's")
    group.add_argument("--account", metavar="ID", help="the account that is deployed to; default: the image's")
    group.add_argument("--cuda", default="13.0", metavar="VERSION", help="the CUDA version of the image (default: 13.0)")
    group.add_argument("--kms-key", metavar="ARN", help="a key that encrypts what is stored, and the model in S3")
    group.add_argument("--volume-size", type=_gigabytes, metavar="GB", help="of the disk, on instance types without one of their own")
    group.add_argument(
        "--download-timeout", type=_seconds, default=DOWNLOAD_TIMEOUT_S, metavar="S", help="for --model-data (default: 1800)"
    )
    group.add_argument("--async-output", metavar="S3URI", help="asynchronous inference: where answers go")
    group.add_argument("--async-failure", metavar="S3URI", help="where failures go")
    group.add_argument("--async-input", metavar="S3URI", help="where requests lie, for the role's rights")
    group.add_argument("--success-topic", metavar="ARN", help="an SNS topic that is told of answers")
    group.add_argument("--error-topic", metavar="ARN", help="an SNS topic that is told of failures")


def _count(text: str) -> int:
    return _whole(text, 1, 1000)


def _seconds(text: str) -> int:
    return _whole(text, 60, 3600)


def _gigabytes(text: str) -> int:
    return _whole(text, 1, 512)


def _whole(text: str, low: int, high: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and low <= int(text) <= high):
        raise argparse.ArgumentTypeError(f"must be a whole number from {low} to {high}, not {text!r}")
    return int(text)
