"""What an image's layers hold, however the engine ordered it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
from pathlib import Path
from typing import IO

from containers import DOCKER


def layer_digests(image: str, scratch: Path) -> list[str]:
    """A SHA-256 of each layer: over all of its entries, with content and metadata, in the order of their names.

    Docker's own digest depends on its storage too. Its overlay2 driver writes a layer's entries in the order of a walk, where
    ``a/b`` is before ``a-c``, but in the order of whole paths, where it is behind, if a layer of the image is there from before.
    """
    archive = scratch / "image.tar"
    subprocess.run([DOCKER, "save", "--output", str(archive), image], check=True, timeout=300)
    with tarfile.open(archive) as saved:
        manifest = saved.extractfile("manifest.json")
        assert manifest is not None
        digests = []
        for name in json.load(manifest)[0]["Layers"]:
            layer = saved.extractfile(name)
            assert layer is not None
            digests.append(_digest(layer))
    archive.unlink()
    return digests


def _digest(layer: IO[bytes]) -> str:
    with tarfile.open(fileobj=layer) as entries:
        lines = sorted(_line(entries, entry) for entry in entries)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _line(entries: tarfile.TarFile, entry: tarfile.TarInfo) -> str:
    content = entries.extractfile(entry) if entry.isfile() else None
    digest = hashlib.file_digest(content, "sha256").hexdigest() if content is not None else ""
    owner, device = (entry.uid, entry.gid), (entry.devmajor, entry.devminor)
    return repr(
        (entry.name, entry.type, oct(entry.mode), owner, entry.mtime, entry.size, entry.linkname, device, entry.pax_headers, digest)
    )
