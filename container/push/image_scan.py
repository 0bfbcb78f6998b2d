"""What an image would give away, and what it consists of: its settings, the commands that made it, the files of every layer."""

from __future__ import annotations

import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from headway.container.push.secret_forms import Finding, in_text, in_variables, known_form

_INVENTORY = "usr/share/headway/sbom.cdx.json"  # container/image/inventory.py writes it
_MOST_INVENTORY_BYTES = 32 * 1024**2
_MOST_BYTES = 64 * 1024  # of a file that is searched: keys and settings are small, and data is not text

# Files that hold nothing but credentials, and what must be in them to count.
_CREDENTIAL_FILES = (
    (re.compile(r"(?:^|/)\.aws/credentials$"), b"", "AWS credentials"),
    (re.compile(r"(?:^|/)\.docker/config\.json$"), b'"auth"', "a registry's password"),
    (re.compile(r"(?:^|/)\.git-credentials$"), b"://", "a password of git"),
    (re.compile(r"(?:^|/)[._]netrc$"), b"password", "passwords"),
    (re.compile(r"(?:^|/)\.pypirc$"), b"password", "a package index's password"),
    (re.compile(r"(?:^|/)\.npmrc$"), b"_authToken", "a package registry's token"),
    (re.compile(r"(?:^|/)\.kube/config$"), b"", "a cluster's credentials"),
    (re.compile(r"(?:^|/)huggingface/(?:token|stored_tokens)$"), b"", "a Hugging Face token"),
    (re.compile(r"^run/secrets/."), b"", "a secret of the build"),
)
_VARIABLES_FILE = re.compile(r"(?:^|/)\.env(?:\.[a-z]+)?$")
# What packages bring, among it keys of tests and examples of tokens. Credential files are looked for there too.
_OF_PACKAGES = re.compile(
    r"^(?:usr/)?(?:s?bin|lib(?:32|64|x32|exec)?|share|include)/|^usr/local/lib/|^var/lib/|/(?:site|dist)-packages/|/node_modules/"
)


@dataclass
class Inventory:
    """The parts of the image, by kind of package."""

    num_parts: dict[str, int]
    without_licence: list[str]


@dataclass
class LayerScan:
    """``inventory`` is None where the image has none; ``num_unread``: layers in a form that can't be read here."""

    findings: list[Finding] = field(default_factory=list)
    inventory: Inventory | None = None
    num_files: int = 0
    num_unread: int = 0


def scan_settings(config: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Secrets among the image's variables and labels, and in the commands of its history (the oldest is step 1)."""
    variables = dict(text.partition("=")[::2] for text in config.get("Env") or [])
    found = in_variables(variables, "environment")
    found += [
        Finding(f"label {name}", what, True) for name, text in (config.get("Labels") or {}).items() if (what := known_form(str(text)))
    ]
    for name in ("Entrypoint", "Cmd"):
        found += in_text(" ".join(config.get(name) or []), name.lower())
    for number, step in enumerate(reversed(history), 1):
        found += in_text(str(step.get("CreatedBy") or ""), f"history, step {number}", variables)
    return found


def scan_layers(saved: Iterable[bytes]) -> LayerScan:
    """Looks through every layer, also at files that a later one deletes. ``saved`` is what `docker save` gives."""
    scan = LayerScan()
    with tarfile.open(fileobj=cast(Any, _Pieces(saved)), mode="r|") as archive:
        for member in archive:
            if member.isfile() and not member.name.endswith((".json", "/json", "/VERSION", "repositories", "oci-layout")):
                _scan_layer(_Peeked(archive.extractfile(member)), scan)
    return scan


def _scan_layer(stream: _Peeked, scan: LayerScan) -> None:
    if stream.first.startswith((b"{", b"[")):
        return  # a configuration or a manifest: in the OCI form they are named by their digests, as layers are
    try:
        with tarfile.open(fileobj=cast(Any, stream), mode="r|*") as layer:
            for member in layer:
                if member.isfile():
                    scan.num_files += 1
                    _scan_file(member, layer, scan)
    except tarfile.ReadError:
        scan.num_unread += 1


def _scan_file(member: tarfile.TarInfo, layer: tarfile.TarFile, scan: LayerScan) -> None:
    path = member.name.removeprefix("./").lstrip("/")
    if path == _INVENTORY and member.size <= _MOST_INVENTORY_BYTES:
        scan.inventory = _inventory(_read(member, layer))
    named = next((row for row in _CREDENTIAL_FILES if row[0].search(path)), None)
    if not member.size or member.size > _MOST_BYTES or (not named and _OF_PACKAGES.search(path)):
        return
    content, place = _read(member, layer), f"a layer's file /{path}"
    if named and named[1] in content:
        scan.findings.append(Finding(place, named[2], True))
    elif _VARIABLES_FILE.search(path):
        scan.findings += in_text(content.decode(errors="replace"), place)
    elif what := known_form(content.decode(errors="replace")):
        scan.findings.append(Finding(place, what, True))


def _read(member: tarfile.TarInfo, layer: tarfile.TarFile) -> bytes:
    file = layer.extractfile(member)
    return file.read() if file else b""


def _inventory(text: bytes) -> Inventory | None:
    try:
        parts = json.loads(text)["components"]
        kinds = Counter(str(part["purl"]).removeprefix("pkg:").partition("/")[0] for part in parts)
        unknown = [str(part["name"]) for part in parts if "not stated" in json.dumps(part.get("licenses", "not stated"))]
    except (ValueError, KeyError, TypeError):
        return None
    return Inventory(dict(kinds), unknown)


class _Pieces:
    """Pieces of bytes as a file that is read from its beginning to its end."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces: Iterator[bytes] = iter(pieces)
        self._rest = b""

    def read(self, size: int) -> bytes:
        taken = [self._rest]
        length = len(self._rest)
        while length < size and (piece := next(self._pieces, None)) is not None:
            taken.append(piece)
            length += len(piece)
        whole = b"".join(taken)
        self._rest = whole[size:]
        return whole[:size]


class _Peeked:
    """A file whose first bytes may be looked at before it is read."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.first: bytes = file.read(1)
        self._is_fresh = True

    def read(self, size: int) -> bytes:
        if self._is_fresh:
            self._is_fresh = False
            return self.first + bytes(self._file.read(size - 1))
        return bytes(self._file.read(size))
