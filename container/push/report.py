"""What a push did and found: for people on stderr, the image's address alone on stdout, or all of it as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from headway.container.push.ecr import SEVERITIES, Scan
from headway.container.push.image_scan import Inventory
from headway.container.push.secret_forms import Finding
from headway.server.say import one_line
from headway.server.words import amount, first_few, plural

if TYPE_CHECKING:
    from rich.console import Console


@dataclass
class Report:
    """Filled as the push goes on: what is not known (yet) is None. ``repository`` is without a tag."""

    image: str
    platform: str
    num_bytes: int
    repository: str
    tags: list[str]
    is_dry_run: bool
    creates_repository: bool = False
    secrets: list[Finding] = field(default_factory=list)
    inventory: Inventory | None = None
    pushed_tags: list[str] = field(default_factory=list)
    digest: str | None = None
    scan: Scan | None = None

    @property
    def uri(self) -> str | None:
        """What CreateModel takes as Image."""
        return f"{self.repository}@{self.digest}" if self.digest else None


def as_json(report: Report) -> str:
    scan = report.scan
    facts = {
        "image": report.image,
        "platform": report.platform,
        "size_bytes": report.num_bytes,
        "repository": report.repository,
        "repository_created": report.creates_repository and not report.is_dry_run,
        "tags": report.tags,
        "pushed_tags": report.pushed_tags,
        "digest": report.digest,
        "uri": report.uri,
        "dry_run": report.is_dry_run,
        "secrets": [{"place": found.place, "what": found.what, "certain": found.is_certain} for found in report.secrets],
        "parts": report.inventory and report.inventory.num_parts,
        "parts_without_licence": report.inventory and report.inventory.without_licence,
        "findings": dict(scan.counts) if scan and scan.counts is not None else None,
        "findings_missing_because": scan.why if scan and scan.counts is None else None,
    }
    return json.dumps(facts, indent=2)


def show(report: Report, console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False)
    for name, text in _rows(report):
        table.add_row(name, Text(one_line(text)))
    console.print(table)


def _rows(report: Report) -> list[tuple[str, str]]:
    rows = [("image", f"{report.image}, {report.platform}, {amount(report.num_bytes)}")]
    if parts := report.inventory:
        kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(parts.num_parts.items()))
        unknown = f"; without a stated licence: {first_few(parts.without_licence)}" if parts.without_licence else "; each with its licence"
        rows.append(("packages", kinds + unknown))
    rows.append(("secrets", plural(len(report.secrets), "finding") if report.secrets else "none found"))
    if report.is_dry_run:
        missing = [tag for tag in report.tags if tag not in report.pushed_tags]
        would = f"would be pushed to {report.repository}" if report.digest is None else f"{report.repository} has it already"
        rows.append(("repository", "would be created" if report.creates_repository else "is there"))
        rows.append(("tags", f"{first_few(missing)}: {would}"))
    else:
        rows.append(("tags", first_few(report.pushed_tags) + " pushed" if report.pushed_tags else "all of them there already"))
    if report.scan:
        rows.append(("findings", _found(report.scan)))
    return rows


def _found(scan: Scan) -> str:
    if scan.counts is None:
        return scan.why
    return ", ".join(f"{scan.counts[name]} {name}" for name in reversed(SEVERITIES) if scan.counts.get(name)) or "none"
