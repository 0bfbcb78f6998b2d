"""Reads what references name: files here, all else through config/remote.py."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from headway.server.config.references import Place, Reference, Unreadable
from headway.server.config.remote import RemotePlaces, region_of

MAX_BYTES = 4 * 1024 * 1024
REMOTE_BUDGET_S = 2.0


class Places:
    """One reader for a resolve(): its remote reads share one budget of time. boto3 is imported for the first."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._remote = RemotePlaces(region_of(environ), MAX_BYTES, REMOTE_BUDGET_S)

    def read(self, references: Collection[Reference]) -> dict[Reference, str | Unreadable]:
        """What stands at each, or why that can't be had; the remote ones all at once."""
        found = {reference: _text_of_file(reference) for reference in references if reference.place is Place.FILE}
        if remote := [reference for reference in references if reference.place is not Place.FILE]:
            found |= {reference: _text(reference, answer) for reference, answer in self._remote.read(remote).items()}
        return found

    def text(self, reference: Reference) -> str:
        """What stands at one. Raises Unreadable."""
        answer = self.read([reference])[reference]
        if isinstance(answer, Unreadable):
            raise answer
        return answer


def _text_of_file(reference: Reference) -> str | Unreadable:
    try:
        with Path(reference.name).expanduser().open("rb") as file:
            return _text(reference, file.read(MAX_BYTES + 1))
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: ~nobody; ValueError: a NUL in the path
        return Unreadable(reference, getattr(error, "strerror", None) or str(error))


def _text(reference: Reference, content: bytes | Unreadable) -> str | Unreadable:
    if isinstance(content, Unreadable):
        return content
    if len(content) > MAX_BYTES:
        return Unreadable(reference, f"it is larger than {MAX_BYTES // 1024**2} MiB")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return Unreadable(reference, "it is not UTF-8 text")
