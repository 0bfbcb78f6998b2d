"""What a check found, as JSON. The form is documented in docs/check.md: names are added to it, never changed."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

from headway import __version__
from headway.container.check.findings import Finding, Severity
from headway.container.check.fit import FitReport
from headway.container.check.model_look import ModelLook
from headway.container.check.platform_rules import Platform
from headway.server.config.given import Origin
from headway.server.config.sources import Resolved, all_settings
from headway.server.config.values import masked

_SCHEMA = 1
# Lengths of requests, prompt and answer, for which a fit is told.
CONTEXTS = (512, 2048, 8192, 32768, 131072)
# Of FitReport, told under the same names.
_FIT_NAMES = (
    "device",
    "num_engines",
    "device_bytes",
    "reserved_bytes",
    "dtype",
    "kv_cache_dtype",
    "weight_format",
    "weight_bytes",
    "adapter_bytes",
    "activation_bytes",
    "kv_cache_bytes",
    "offload_bytes",
    "num_kv_tokens",
    "block_size",
    "max_model_len",
    "longest_context",
    "max_num_seqs",
    "fits",
)


@dataclass(frozen=True, slots=True)
class Report:
    """``fit`` is of the instance type that was asked for; ``fitting`` are the types on which the server would start."""

    platform: Platform
    resolved: Resolved | None  # None: the words are another program's
    findings: tuple[Finding, ...]
    look: ModelLook
    fit: FitReport | None
    fitting: tuple[FitReport, ...]

    def count(self, severity: Severity) -> int:
        return Counter(finding.severity for finding in self.findings)[severity]

    @property
    def status(self) -> str:
        return "errors" if self.count("error") else "warnings" if self.count("warning") else "ok"


def as_json(report: Report) -> str:
    return json.dumps(
        {
            "schema": _SCHEMA,
            "headway": __version__,
            "status": report.status,
            "platform": report.platform,
            "findings": [{"severity": found.severity, "area": found.area, "message": found.message} for found in report.findings],
            "not_checked": report.look.not_checked,
            "options": _options(report.resolved) if report.resolved else {},
            "model": _model(report.look),
            "fit": _fit(report.fit) if report.fit else None,
            "fitting_instances": [fit.instance.name for fit in report.fitting],
        },
        indent=2,
    )


def _options(resolved: Resolved) -> dict[str, Any]:
    """Every option by its YAML key, with where it is from; secrets masked."""
    return {
        setting.key: {
            "value": masked(setting, resolved.value(setting)),
            "source": str(resolved.source(setting)),
            "is_default": resolved.source(setting).origin is Origin.DEFAULT,
        }
        for setting in all_settings()
    }


def _model(look: ModelLook) -> dict[str, Any]:
    shape = look.shape
    return {
        "name": look.name or None,
        "place": look.place or None,
        "path": str(look.files.path) if look.files else None,
        "format": look.files.kind if look.files else None,
        "num_files": len(look.sizes),
        "weight_file_bytes": look.weight_file_bytes,
        "use": shape.use if shape else None,
        "architecture": shape.config.architecture if shape else None,
        "dtype": shape.facts.dtype if shape else None,
        "max_model_len": shape.facts.max_model_len if shape else None,
    }


def _fit(fit: FitReport) -> dict[str, Any]:
    return {
        "instance": fit.instance.name,
        "gpu": fit.instance.gpu,
        "num_gpus": fit.instance.num_gpus,
        **{name: getattr(fit, name) for name in _FIT_NAMES},
        "num_requests": {str(context): fit.num_requests(context) for context in contexts_of(fit)},
        "num_ranks": fit.num_ranks,
        "num_stages": fit.num_stages,
        "most_stages": fit.most_stages,
        "tensor_parallel_sizes": list(fit.tensor_parallel_sizes),
        "vocabulary_sizes": list(fit.vocabulary_sizes),
        "problems": list(fit.problems),
    }


def contexts_of(fit: FitReport) -> list[int]:
    """Those of CONTEXTS that are served, and the longest that is."""
    return [context for context in CONTEXTS if context < fit.max_model_len] + [fit.max_model_len]
