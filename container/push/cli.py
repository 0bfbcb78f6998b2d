"""`headway push`: builds the image, looks for secrets in it, and pushes it to ECR."""

from __future__ import annotations

import argparse
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TaskID, TextColumn, TransferSpeedColumn
from rich.progress import Progress as Bars

from headway.container.push.build import VARIANTS, build, is_dirty
from headway.container.push.ecr import SEVERITIES, Ecr, Repository, Wish
from headway.container.push.engine import Engine, Image, Progress
from headway.container.push.image_scan import scan_layers, scan_settings
from headway.container.push.names import checked_repository, checked_tags, tag_of
from headway.container.push.report import Report, as_json, show
from headway.server.errors import ConfigError, HeadwayError
from headway.server.say import say
from headway.server.words import first_few

_DESCRIPTION = "Builds the image, looks for secrets in it and pushes it to ECR. Prints the address for CreateModel, by digest."


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Returns 1 if the scan of ECR found what --fail-on names. Raises ConfigError, HeadwayError."""
    options = _parser().parse_args(list(argv))
    tags = checked_tags(options.tag)
    ecr = Ecr(options.region, checked_repository(options.repository), environ)
    wish = Wish(options.kms_key, dict(_tag(text) for text in options.repository_tag))
    console = Console(stderr=True)
    with Engine(environ) as engine:
        report = _done(options, environ, engine, ecr, wish, tags, console)
    show(report, console)
    sys.stdout.write(as_json(report) + "\n" if options.json else f"{report.uri}\n" if report.uri else "")
    return _verdict(report, options.fail_on)


def _done(
    options: argparse.Namespace,
    environ: Mapping[str, str],
    engine: Engine,
    ecr: Ecr,
    wish: Wish,
    tags: list[str],
    console: Console,
) -> Report:
    """Every step, in order. Nothing is changed at AWS before all that can be refused has been looked at."""
    builds = not (options.image or options.no_build or options.dry_run)
    if builds:
        build(options.checkout, options.variant, environ)
    image = engine.image(options.image or VARIANTS[options.variant])
    tags = tags or [tag_of(image.labels, is_dirty=builds and is_dirty(options.checkout, environ))]
    report = Report(image.name, image.platform, image.num_bytes, ecr.name, tags, options.dry_run)
    _look_into(image, engine, report, console)
    if any(found.is_certain for found in report.secrets) and not options.allow_secrets:
        raise HeadwayError(
            f"{image.name} is not pushed: it gives secrets away (above), whose layers keep even what a later one deletes; take them "
            "out and replace them where they are valid, or use --allow-secrets if they are none"
        )
    repository = ecr.find()
    report.creates_repository = repository is None
    missing = _missing_tags(ecr, repository, image, tags, report)
    if not options.dry_run:
        repository = repository or ecr.create(wish)
        report.repository = repository.uri
        _push(image, repository, missing, engine, ecr, report, console)
        with console.status("Waiting for ECR's scan"):
            report.scan = ecr.scan(str(report.digest), repository.scans_on_push, options.scan_timeout)
    return report


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="headway push", description=_DESCRIPTION, allow_abbrev=False)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--image", metavar="NAME", help="An image that the engine has; nothing is built.")
    source.add_argument("--no-build", action="store_true", help="Take the image that the last `make image` left.")
    parser.add_argument("--variant", choices=tuple(VARIANTS), default="cpu", help="What is built: cpu (default) or cuda.")
    parser.add_argument("--checkout", type=Path, default=Path(), metavar="DIR", help="Where Headway's Dockerfile is; default: here.")
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


def _seconds(text: str) -> float:
    if not text.isdecimal() or int(text) > 86400:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to 86400, not {text!r}")
    return float(text)


def _tag(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ConfigError([f"--repository-tag {text!r}: expected KEY=VALUE"])
    return key, value


def _look_into(image: Image, engine: Engine, report: Report, console: Console) -> None:
    with console.status(f"Looking for secrets in {image.name}"):
        try:
            layers = scan_layers(engine.saved(image))
        except tarfile.TarError as error:
            raise HeadwayError(f"the layers of {image.name} can't be read: {error}") from error
    report.secrets = [*scan_settings(image.config, image.history), *layers.findings]
    report.inventory = layers.inventory
    for found in report.secrets:
        say("error" if found.is_certain else "warning", f"{image.name}: {found}")
    if layers.num_unread:
        say("warning", f"{image.name}: {layers.num_unread} of its layers are packed in a form that can't be searched for secrets here")
    if layers.inventory is None:
        say("warning", f"{image.name} has no bill of materials at /usr/share/headway, so what it consists of is not told")


def _missing_tags(ecr: Ecr, repository: Repository | None, image: Image, tags: list[str], report: Report) -> list[str]:
    """The tags to push. Raises HeadwayError where one names another image: what a tag names must not change."""
    if repository is None:
        return tags
    report.repository = repository.uri
    missing = []
    for tag in tags:
        held = ecr.holds(tag)
        if held is None:
            missing.append(tag)
            continue
        digest, names = held
        if image.identity not in names:
            raise HeadwayError(f"{repository.uri}:{tag} is another image ({digest}), and tags are not moved; name another one with --tag")
        report.digest = digest
    return missing


def _push(image: Image, repository: Repository, tags: list[str], engine: Engine, ecr: Ecr, report: Report, console: Console) -> None:
    if not tags:
        return
    login = ecr.login()
    for tag in tags:
        with _bars(console) as on_progress:
            report.digest = engine.push(image, repository.uri, tag, login, on_progress)
        report.pushed_tags.append(tag)


@contextmanager
def _bars(console: Console) -> Iterator[Callable[[Progress], None]]:
    """A bar a layer."""
    with Bars(TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def show_progress(progress: Progress) -> None:
            if progress.layer not in tasks:
                tasks[progress.layer] = bars.add_task(progress.layer, total=progress.total)
            # An engine counts the archive's own bytes too, and ends above the total.
            total = max(progress.total, progress.completed)
            bars.update(tasks[progress.layer], completed=progress.completed, total=total)

        yield show_progress


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
