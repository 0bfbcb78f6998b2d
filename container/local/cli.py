"""`headway local`: a local SageMaker runtime."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from headway.container.local.faults import FAULTS, Faults, read_faults
from headway.server.errors import ConfigError, HeadwayError
from headway.server.say import say

_DESCRIPTION = "A local SageMaker runtime: unmodified boto3 and OpenAI clients call a container through it as they call an endpoint."
_EPILOG = (
    "There is no authentication: signatures are not verified. Faults: "
    + "; ".join(f"{name}: {what}" for name, what in FAULTS.items())
    + ". Each takes how often, from 0 to 1; delay and slow-ping take how long, as 3s or 200ms@0.1; seed=7 repeats a run."
)
_SERVICES = ("SAGEMAKER", "SAGEMAKER_RUNTIME", "APPLICATION_AUTO_SCALING")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_COALESCE_S = 0.1


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Runs until SIGINT or SIGTERM. Raises ConfigError; HeadwayError without the extra packages."""
    options = _parser().parse_args(list(argv))
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    if options.print_env:
        sys.stdout.write(_exports(options.host, options.port, region, environ))
        return 0
    if options.url is None:
        raise ConfigError(["say what is to be called: --url http://127.0.0.1:8080, a server that runs"])
    faults = read_faults(options.faults)
    _check(options, faults)
    if options.host not in _LOOPBACK:
        say("warning", f"--host {options.host}: whoever reaches this port can call the endpoint: the local runtime verifies no signatures")
    try:
        from headway.container.local.running import run
    except ModuleNotFoundError as problem:
        if problem.name not in ("aiohttp", "yarl"):
            raise
        raise HeadwayError("headway local needs aiohttp: pip install 'headway[toolkit]'") from problem
    return run(options, faults, region, lambda port: sys.stdout.write(_exports(options.host, port, region, environ)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="headway local",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--url", metavar="URL", help="a server that runs, as http://127.0.0.1:8080: one endpoint, in service at once")
    parser.add_argument("--endpoint-name", default="local", metavar="NAME", help="what that endpoint is called")
    parser.add_argument("--host", default="127.0.0.1", help="where to listen")
    parser.add_argument("--port", type=_port, default=8787, help="where to listen; 0 takes a free one")
    parser.add_argument("--print-env", action="store_true", help="only print the variables for clients, for eval")
    parser.add_argument("--faults", default="", metavar="LIST", help="what goes wrong on purpose, as throttle=0.1,slow-ping=3s,seed=7")
    cuts = parser.add_mutually_exclusive_group()
    cuts.add_argument("--split", type=_size, metavar="N", help="cut streamed answers into parts of at most N bytes")
    cuts.add_argument("--coalesce", dest="coalesce_s", action="store_const", const=_COALESCE_S, default=0.0, help="join their parts")
    return parser


def _check(options: argparse.Namespace, faults: Faults) -> None:
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
    if problems:
        raise ConfigError(problems)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"must be a port, from 0 to 65535, not {text!r}")
    return int(text)


def _size(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text) <= 1 << 20:
        raise argparse.ArgumentTypeError(f"must be a number of bytes, from 1 to {1 << 20}, not {text!r}")
    return int(text)


def _exports(host: str, port: int, region: str, environ: Mapping[str, str]) -> str:
    """Lines for a shell. Credentials are made up where there are none: clients sign with something."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "::1": "[::1]"}.get(host, host)
    values = {f"AWS_ENDPOINT_URL_{service}": f"http://{name}:{port}" for service in _SERVICES}
    values["AWS_DEFAULT_REGION"] = region
    if not environ.get("AWS_ACCESS_KEY_ID") and not environ.get("AWS_PROFILE"):
        values |= {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}
    return "".join(f"export {key}={shlex.quote(value)}\n" for key, value in values.items())
