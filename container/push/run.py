"""The steps of a push, in the order in which they must be taken. Nothing is changed before all that can be refused has been looked at."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TaskID, TextColumn, TransferSpeedColumn
from rich.progress import Progress as Bars

from headway.container.push.ecr import Ecr, Repository, Wish
from headway.container.push.engine import Engine, Image, Progress
from headway.container.push.image_scan import scan_layers, scan_settings
from headway.container.push.report import Report
from headway.server.errors import HeadwayError
from headway.server.say import say


@dataclass
class Push:
    """One image to one repository. Each step adds what it did and found to ``report``. Raises HeadwayError."""

    image: Image
    engine: Engine
    ecr: Ecr
    console: Console
    report: Report
    _repository: Repository | None = field(default=None, init=False)
    _missing_tags: list[str] = field(default_factory=list, init=False)

    def look_into(self, *, allow_secrets: bool) -> None:
        """Searches settings, history and layers."""
        name, report = self.image.name, self.report
        with self.console.status(f"Looking for secrets in {name}"):
            try:
                layers = scan_layers(self.engine.saved(self.image))
            except tarfile.TarError as error:
                raise HeadwayError(f"the layers of {name} can't be read: {error}") from error
        report.secrets = [*scan_settings(self.image.config, self.image.history), *layers.findings]
        report.inventory = layers.inventory
        for found in report.secrets:
            say("error" if found.is_certain else "warning", f"{name}: {found}")
        if layers.num_unread:
            say("warning", f"{name}: {layers.num_unread} of its layers are packed in a form that can't be searched for secrets here")
        if layers.inventory is None:
            say("warning", f"{name} has no bill of materials at /usr/share/headway, so what it consists of is not told")
        if any(found.is_certain for found in report.secrets) and not allow_secrets:
            raise HeadwayError(
                f"{name} is not pushed: it gives secrets away (above), whose layers keep even what a later one deletes; take them out "
                "and replace them where they are valid, or use --allow-secrets if they are none"
            )

    def compare(self) -> None:
        """Finds the tags that are to be pushed. One that names another image is an error: what a tag names must not change."""
        self._repository = repository = self.ecr.find()
        if repository is None:
            self.report.creates_repository = True
            self._missing_tags = self.report.tags
            return
        self.report.repository = repository.uri
        for tag in self.report.tags:
            held = self.ecr.holds(tag)
            if held is None:
                self._missing_tags.append(tag)
                continue
            digest, names = held
            if self.image.identity not in names:
                raise HeadwayError(f"{repository.uri}:{tag} is another image ({digest}), and tags are not moved; name another with --tag")
            self.report.digest = digest

    def push(self, wish: Wish) -> None:
        """Creates the repository if it is missing, as ``wish`` says."""
        self._repository = repository = self._repository or self.ecr.create(wish)
        self.report.repository = repository.uri
        if not self._missing_tags:
            return
        login = self.ecr.login()
        for tag in self._missing_tags:
            with _bars(self.console) as on_progress:
                self.report.digest = self.engine.push(self.image, repository.uri, tag, login, on_progress)
            self.report.pushed_tags.append(tag)

    def wait_for_scan(self, limit_s: float) -> None:
        assert self._repository is not None
        with self.console.status("Waiting for ECR's scan"):
            self.report.scan = self.ecr.scan(str(self.report.digest), self._repository.scans_on_push, limit_s)


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
