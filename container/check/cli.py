"""`headway check`: what a container would make of its environment and its model, on any machine, without loading anything."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence

from headway.container.check.findings import Finding, errors, warnings
from headway.container.check.fit import FitReport, fit_report, fitting_instances
from headway.container.check.model_files import look_at_model
from headway.container.check.model_look import ModelLook
from headway.container.check.platform_rules import Platform, platform_findings
from headway.container.check.report import Report, as_json
from headway.container.check.text import as_text
from headway.container.instances import Instance, find_instance
from headway.container.settings import Settings, add_arguments, parse_arguments, read_settings
from headway.entrypoint.sagemaker import sagemaker_variables
from headway.server.config.sources import Resolved
from headway.server.errors import ConfigError

_DESCRIPTION = "Tells what a container would make of its environment and its model: options, faults, memory. Loads nothing."
_NO_INSTANCE = "no instance type of SageMaker that is known holds this model with these options: --instance TYPE tells what one lacks"
_EPILOG = "Exit status: 0 all is well or there are only warnings, 1 warnings with --strict, 2 errors."


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Raises ConfigError for arguments that can't be understood; what is wrong with the container is in the report."""
    given = parse_arguments(_parser(), argv)
    instance = find_instance(given.instance) if given.instance else None
    settings = read_settings(given, environ)
    report = _check(settings, _platform(given, settings), instance, is_offline=given.offline)
    sys.stdout.write(f"{as_json(report)}\n" if given.json else as_text(report))
    if report.count("error"):
        return 2
    return 1 if given.strict and report.count("warning") else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="headway check", description=_DESCRIPTION, epilog=_EPILOG, allow_abbrev=False)
    parser.add_argument("--instance", metavar="TYPE", help="An instance type of SageMaker, as ml.g6.xlarge: what fits there.")
    parser.add_argument(
        "--platform",
        choices=("any", "docker", "sagemaker"),
        help="Where it will run. any: what SageMaker refuses is a warning. Default: sagemaker with --instance or SAGEMAKER_*, else any.",
    )
    parser.add_argument("--offline", action="store_true", help="Ask neither the Hub nor S3 about the model.")
    parser.add_argument("--strict", action="store_true", help="Exit status 1 if there are warnings.")
    parser.add_argument("--json", action="store_true", help="For machines.")
    add_arguments(parser)
    return parser


def _platform(given: argparse.Namespace, settings: Settings) -> Platform:
    if given.platform is not None:
        platform: Platform = given.platform
        return platform
    return "sagemaker" if given.instance or sagemaker_variables(settings.environ) else "any"


def _check(settings: Settings, platform: Platform, instance: Instance | None, *, is_offline: bool) -> Report:
    try:
        resolved, problems = settings.examine()
    except ConfigError as error:
        return Report(platform, None, tuple(errors("options", error.problems)), ModelLook(""), None, ())
    found = errors("options", problems) + warnings("options", resolved.warnings)
    found += platform_findings(resolved, settings, platform)
    look = look_at_model(resolved.config, settings, is_offline=is_offline)
    found += errors("model", look.problems) + warnings("model", look.warnings)
    fit, fitting = None, []
    if look.shape:
        fitting = fitting_instances(resolved.config, look.shape)
        fit, unfit = _fit(resolved, look, instance)
        found += unfit
        if not fitting and instance is None and platform != "docker":
            found += warnings("fit", [_NO_INSTANCE])
    return Report(platform, resolved, tuple(found), look, fit, tuple(fitting))


def _fit(resolved: Resolved, look: ModelLook, instance: Instance | None) -> tuple[FitReport | None, list[Finding]]:
    if instance is None or look.shape is None:
        return None, []
    try:
        fit = fit_report(resolved.config, look.shape, instance)
    except ConfigError as error:
        return None, errors("fit", (f"on {instance.name}: {problem}" for problem in error.problems))
    return fit, errors("fit", (f"on {instance.name}: {problem}" for problem in fit.problems))
