"""`headway push`: builds the image, looks for secrets in it, and pushes it to ECR."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from headway.container.push.build import VARIANTS, build, is_dirty
from headway.container.push.ecr import SEVERITIES, Ecr, Wish
from headway.container.push.engine import Engine
from headway.container.push.names import checked_repository, checked_tags, tag_of
from headway.container.push.report import Report, as_json, show
from headway.container.push.run import Push
from headway.server.errors import ConfigError
from headway.server.say import say
from headway.server.words import first_few

_DESCRIPTION = "Builds the image, looks for secrets in it and pushes it to ECR. Prints the address for CreateModel, by digest."


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Returns 1 if the scan of ECR found what --fail-on names. Raises ConfigError, HeadwayError."""
    options = _parser().parse_args(list(argv))
    if problems := _in_vain(options):
        raise ConfigError(problems)
    tags, variant = checked_tags(options.tag), options.variant or "cpu"
    ecr = Ecr(options.region, checked_repository(options.repository), environ)
    wish = Wish(options.kms_key, dict(_tag(text) for text in options.repository_tag))
    console = Console(stderr=True)
    with Engine(environ) as engine:
        builds = not (options.image or options.no_build or options.dry_run)
        if builds:
            build(options.checkout or Path(), variant, environ)
        image = engine.image(options.image or VARIANTS[variant])
        tags = tags or [tag_of(image.labels, is_dirty=builds and is_dirty(options.checkout or Path(), environ))]
        report = Report(image.name, image.platform, image.num_bytes, ecr.name, tags, options.dry_run)
        push = Push(image, engine, ecr, console, report)
        push.look_into(allow_secrets=options.allow_secrets)
        push.compare()
        if not options.dry_run:
            push.push(wish)
            push.wait_for_scan(options.scan_timeout)
    show(report, console)
    sys.stdout.write(as_json(report) + "\n" if options.json else f"{report.uri}\n" if report.uri else "")
    return _verdict(report, options.fail_on)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="headway push", description=_DESCRIPTION, allow_abbrev=False)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--image", metavar="NAME", help="An image that the engine has; nothing is built.")
    source.add_argument("--no-build", action="store_true", help="Take the image that the last `make image` left.")
    parser.add_argument("--variant", choices=tuple(VARIANTS), help="What is built: cpu (default) or cuda.")
    parser.add_argument("--checkout", type=Path, metavar="DIR", help="Where Headway's Dockerfile is; default: here.")
    parser.add_argument("--allow-secrets", action="store_true", help="Push although secrets were found in the image.")
    parser.add_argument("--region", help="AWS region; default: AWS_REGION, then the profile's.")
    parser.add_argument("--repository", default="headway", metavar="NAME", help="The repository in ECR; default: headway.")
    parser.add_argument("--kms-key", metavar="KEY", help="A KMS key for a repository that is created; default: AES256.")
    parser.add_argument("--repository-tag", action="append", default=[], metavar="KEY=VALUE", help="A tag of a repository that is created.")
    parser.add_argument("--tag", action="append", default=[], metavar="TAG", help="The image's tag, repeated; default: VERSION-COMMIT.")
    parser.add_argument("--fail-on", type=str.upper, choices=SEVERITIES, help="Exit with 1 if ECR's scan finds this severity or above.")
    parser.add_argument("--scan-timeout", type=_seconds, default=300.0, metavar="SECONDS", help="How long to wait for it; default: 300.")
    parser.add_argument("--dry-run", action="store_true", help="Change nothing: look into the image that is there, and ask ECR.")
    parser.add_argument("--json", action="store_true", help="Write what was done and found as JSON to stdout.")
    return parser


def _in_vain(options: argparse.Namespace) -> list[str]:
    """A sentence for each option that says how to build where nothing is built. A dry run takes all: it is another's rehearsal."""
    unread = {"--variant": options.image and options.variant, "--checkout": (options.image or options.no_build) and options.checkout}
    source = "--image" if options.image else "--no-build"
    return [f"{flag}: nothing is built with {source}; leave one of them out" for flag, is_given in unread.items() if is_given]


def _seconds(text: str) -> float:
    if not text.isdecimal() or int(text) > 86400:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to 86400, not {text!r}")
    return float(text)


def _tag(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ConfigError([f"--repository-tag {text!r}: expected KEY=VALUE"])
    return key, value


def _verdict(report: Report, fail_on: str | None) -> int:
    if not fail_on or report.scan is None:
        return 0
    if report.scan.counts is None:
        say("error", f"--fail-on {fail_on}: it is pushed, but {report.scan.why}")
        return 1
    if number := report.scan.num_from(fail_on):
        counts = first_few([f"{count} {name}" for name, count in report.scan.counts.items()])
        say("error", f"--fail-on {fail_on}: it is pushed, and ECR's scan has {number} findings of that severity or above ({counts})")
        return 1
    return 0
