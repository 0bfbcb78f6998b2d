"""`headway local`: a local SageMaker runtime."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from headway.container.local.faults import FAULTS, Faults, read_faults
from headway.container.settings import add_arguments, parse_arguments, read_settings
from headway.server.errors import ConfigError, HeadwayError
from headway.server.say import say

if TYPE_CHECKING:
    from headway.container.local.storage import Storage

_DESCRIPTION = "A local SageMaker runtime: unmodified boto3 and OpenAI clients call a container through it as they call an endpoint."
_EPILOG = (
    "There is no authentication: signatures are not verified. Faults: "
    + "; ".join(f"{name}: {what}" for name, what in FAULTS.items())
    + ". Each takes how often, from 0 to 1; delay and slow-ping take how long, as 3s or 200ms@0.1; seed=7 repeats a run."
)
_SERVICES = ("SAGEMAKER", "SAGEMAKER_RUNTIME", "APPLICATION_AUTO_SCALING")
_ENDPOINT_NAME = "local"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_COALESCE_S = 0.1


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Runs until SIGINT or SIGTERM. Raises ConfigError; HeadwayError without the extra packages."""
    options = parse_arguments(_parser(), argv)
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    if options.print_env:
        sys.stdout.write(_exports(options.host, options.port, region, environ))
        say("warning", "S3 and SNS are left out, as their ports change: the lines that a running `headway local` printed name them")
        return 0
    faults = read_faults(options.faults)
    _check(options, faults)
    settings = read_settings(options, environ) if _names_a_model(options) else None
    if options.host not in _LOOPBACK:
        say("warning", f"--host {options.host}: whoever reaches this port can call the endpoint: the local runtime verifies no signatures")
    try:
        from headway.container.local.running import run
    except ModuleNotFoundError as problem:
        if problem.name not in ("aiohttp", "docker", "yarl"):
            raise
        raise HeadwayError(f"headway local needs {problem.name}: pip install 'headway[toolkit]'") from problem

    def announce(port: int, storage: Storage | None) -> str:
        stores = (storage.s3_url, storage.sns_url) if storage else None
        return _exports(options.host, port, region, environ, stores)

    return run(options, settings, faults, region, announce, environ)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="headway local",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    called = parser.add_mutually_exclusive_group()
    called.add_argument("--url", metavar="URL", help="a server that runs, as http://127.0.0.1:8080: one endpoint, in service at once")
    called.add_argument("--image", metavar="IMAGE", help="containers of this image, unless the engine has the one that a model names")
    called.add_argument("--process", action="store_true", help="processes of this installation, without an engine")
    parser.add_argument(
        "--endpoint-name",
        default=_ENDPOINT_NAME,
        metavar="NAME",
        help="of the endpoint of --url, or of -e, --model-dir or words",
    )
    parser.add_argument("--gpus", type=_names, metavar="LIST", help="the GPUs that copies may use, as 0,1")
    parser.add_argument("--s3-url", metavar="URL", help="an S3 in the place of one in this process")
    parser.add_argument("--sns-url", metavar="URL", help="an SNS in the place of one in this process")
    parser.add_argument("--host", default="127.0.0.1", help="where to listen")
    parser.add_argument("--port", type=_port, default=8787, help="where to listen; 0 takes a free one")
    parser.add_argument(
        "--autoscaling-interval",
        type=_seconds,
        metavar="SECONDS",
        help="how often metrics of scaling policies are looked at, instead of every 60 s, or 10 s of high resolution",
    )
    parser.add_argument("--print-env", action="store_true", help="only print the variables for clients, for eval")
    parser.add_argument("--faults", default="", metavar="LIST", help="what goes wrong on purpose, as throttle=0.1,slow-ping=3s,seed=7")
    cuts = parser.add_mutually_exclusive_group()
    cuts.add_argument("--split", type=_size, metavar="N", help="cut streamed answers into parts of at most N bytes")
    cuts.add_argument("--coalesce", dest="coalesce_s", action="store_const", const=_COALESCE_S, default=0.0, help="join their parts")
    add_arguments(parser)
    return parser


def _check(options: argparse.Namespace, faults: Faults) -> None:
    if options.url is None and options.image is None and not options.process:
        raise ConfigError(["say what is to be called: --url of a server that runs, --image for containers, or --process for processes"])
    problems = _problems_of_url(options, faults) if options.url is not None else []
    if options.url is None and options.endpoint_name != _ENDPOINT_NAME and not _names_a_model(options):
        problems.append(
            f"--endpoint-name {options.endpoint_name}: no endpoint is made at once without a model: name it with -e, --model-dir or "
            "words behind --, or leave the name out and create endpoints with boto3"
        )
    if problems:
        raise ConfigError(problems)


def _problems_of_url(options: argparse.Namespace, faults: Faults) -> list[str]:
    problems = []
    try:
        parts = urlsplit(options.url)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_url = False
    if not is_url or parts.query or parts.fragment or parts.username:
        problems.append(f"--url takes the address of a server, as http://127.0.0.1:8080; got {options.url!r}")
    if "death" in faults:
        problems.append("--faults: death needs a copy that was started here, and the server of --url was not; drop comes near it")
    if _names_a_model(options) or options.gpus or options.s3_url or options.sns_url or options.autoscaling_interval:
        problems.append(
            "--url: its server runs already; variables, --model-dir, words, --gpus, stores and --autoscaling-interval are for --image "
            "and --process"
        )
    return problems


def _names_a_model(options: argparse.Namespace) -> bool:
    return bool(options.env or options.env_file or options.model_dir or options.words)


def _names(text: str) -> list[str]:
    names = text.split(",")
    if not all(re.fullmatch(r"[\w-]+", name, re.ASCII) for name in names):
        raise argparse.ArgumentTypeError(f"must be the numbers or ids of GPUs, as 0,1, not {text!r}")
    return names


def _seconds(text: str) -> float:
    if not re.fullmatch(r"\d{1,4}(\.\d{1,3})?", text, re.ASCII) or not float(text):
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0, as 0.5 or 60, not {text!r}")
    return float(text)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"must be a port, from 0 to 65535, not {text!r}")
    return int(text)


def _size(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text) <= 1 << 20:
        raise argparse.ArgumentTypeError(f"must be a number of bytes, from 1 to {1 << 20}, not {text!r}")
    return int(text)


def _exports(host: str, port: int, region: str, environ: Mapping[str, str], stores: tuple[str, str] | None = None) -> str:
    """Lines for a shell. Credentials are made up where there are none: clients sign with something."""
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    url = f"http://{f'[{name}]' if ':' in name else name}:{port}"
    values = {f"AWS_ENDPOINT_URL_{service}": url for service in _SERVICES}
    if stores:
        values |= {"AWS_ENDPOINT_URL_S3": stores[0], "AWS_ENDPOINT_URL_SNS": stores[1]}
    values["AWS_DEFAULT_REGION"] = region
    if not environ.get("AWS_ACCESS_KEY_ID") and not environ.get("AWS_PROFILE"):
        values |= {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}
    return "".join(f"export {key}={shlex.quote(value)}\n" for key, value in values.items())
