"""Models in S3, or a store that speaks its language: fetched in parts into the cache, checked, and kept.

```
CACHE/s3/BUCKET/NAME-<hash of the address>/
    <id>/            the files at one version; the id is a hash of their names, sizes and ETags
    partial/files/   the next version, while it arrives; named <id> once it is whole and checked
    partial/parts/   which parts of those files are there
    auto.json        the version fetched last for --load-format auto, for when S3 can't be asked
```
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from headway.server.errors import ModelSourceError
from headway.server.source.cache import LARGER_DISK, keeping, locked, publish, require_own
from headway.server.source.checksums import Checksum, checksum_of, digest_of
from headway.server.source.choice import has_tokenizer, model_files_below, text_files
from headway.server.source.gguf_parts import parts_of
from headway.server.source.progress import Progress
from headway.server.source.ranged import NUM_THREADS, PART_BYTES, Part, PartialFile, fetch_missing
from headway.server.source.s3_bucket import S3BrokenOff, S3Bucket, S3Location, S3Object, S3Unreachable
from headway.server.source.space import require_space
from headway.server.words import amount, first_few, plural

_PART_ATTEMPTS = 4
_LONGEST_NAME = 255


def fetch_from_s3(
    uri: str, wanted: str, cache_dir: Path, on_progress: Callable[[str], None] | None = None, *, part_bytes: int = PART_BYTES
) -> Path:
    """The local copy of what `uri` names: a directory for a prefix, a file for an object (.gguf or an archive).

    - `wanted`: a load format, which chooses the files below a prefix, or "tokenizer".

    A copy that is whole is used as it is if S3 still lists the same versions, or can't be asked. What a process that was killed has
    fetched is not fetched again. Several processes at once are fine. Raises ModelSourceError.
    """
    location = S3Location.of(uri)
    place = _Place.of(location, wanted, cache_dir)
    require_own(place.root)
    kept = place.kept()
    tell = on_progress or (lambda line: None)
    tell(f"looking at {location.uri}")
    bucket = S3Bucket(location, NUM_THREADS, is_urgent=kept is not None)
    try:
        listed = bucket.objects()
    except S3Unreachable as error:
        if kept is None:
            raise
        tell(f"{str(error).partition(';')[0]}; the copy in {kept} is used as it is")
        return place.model(kept)
    objects = chosen_objects(listed, wanted, location)
    snapshot = place.snapshot(objects)
    if kept == snapshot:
        return place.model(snapshot)
    with (
        keeping(f"A copy of {location.uri}", place.root),
        locked(place.root / "lock", lambda: tell(f"waiting for another process that fetches {uri}")),
    ):
        if not _has_files(snapshot, {item.name: item.size for item in objects}):
            shutil.rmtree(snapshot, ignore_errors=True)
            patient = S3Bucket(location, NUM_THREADS) if kept else bucket
            _Fetch(patient, objects, place.root / "partial", tell, part_bytes).into(snapshot)
        place.keep(snapshot, objects)
    return place.model(snapshot)


def chosen_objects(objects: Sequence[S3Object], wanted: str, location: S3Location) -> list[S3Object]:
    """The objects to fetch. Names that could lead out of a directory are refused; others that are not needed may be anything."""
    if not location.is_prefix:
        names = [item.name for item in objects]
        if any(len(parts_of(name.rpartition("/")[2])) > 1 for name in names):
            raise ModelSourceError(f"{location.uri} is one part of a model; name the prefix of all of them, without the file's name.")
    elif wanted == "tokenizer":
        names = text_files(item.name for item in objects)
        if not has_tokenizer(names):
            raise ModelSourceError(f"{location.uri} holds no tokenizer, such as tokenizer.json or tokenizer.model; check the prefix.")
    else:
        one_gguf = f"name the one to serve, such as {location.uri}{next((o.name for o in objects if o.name.endswith('.gguf')), '')}"
        names = model_files_below([item.name for item in objects], wanted, location.uri, one_gguf)
    for name in names:
        parts = name.split("/")
        is_odd = any(part in ("", ".", "..") or len(part.encode()) > _LONGEST_NAME for part in parts) or not name.isprintable()
        if is_odd or "\\" in name:
            raise ModelSourceError(
                f"{location.uri} is refused: it holds the key {location.key + name!r}, which is no file name; rename it."
            )
    chosen = set(names)
    return [item for item in objects if item.name in chosen]


@dataclass(frozen=True)
class _Place:
    """Where the copies of one location are kept, and which of them was fetched last."""

    root: Path
    wanted: str
    is_directory: bool

    @classmethod
    def of(cls, location: S3Location, wanted: str, cache_dir: Path) -> _Place:
        key = hashlib.sha256(location.uri.encode()).hexdigest()[:12]
        name = "".join(c if c.isalnum() or c in "-_" else "_" for c in location.key.strip("/").rpartition("/")[2])[:64]
        return cls(cache_dir / "s3" / location.bucket / f"{name}-{key}", wanted, location.is_prefix)

    def snapshot(self, objects: Sequence[S3Object]) -> Path:
        facts = "\n".join(f"{item.name}\t{item.size}\t{item.etag}" for item in objects)
        return self.root / hashlib.sha256(facts.encode()).hexdigest()[:16]

    def model(self, snapshot: Path) -> Path:
        """The directory of a snapshot, or the one file that it is about."""
        return snapshot if self.is_directory else next(snapshot.iterdir())

    def kept(self) -> Path | None:
        """The snapshot that was fetched last, if all of it is there."""
        try:
            record = json.loads((self.root / f"{self.wanted}.json").read_text(encoding="utf-8"))
            snapshot, sizes = self.root / record["snapshot"], dict(record["sizes"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):  # none, or not one of ours
            return None
        return snapshot if _has_files(snapshot, sizes) else None

    def keep(self, snapshot: Path, objects: Sequence[S3Object]) -> None:
        record = self.root / f"{self.wanted}.json"
        begun = record.with_suffix(".json.partial")
        begun.write_text(json.dumps({"snapshot": snapshot.name, "sizes": {item.name: item.size for item in objects}}), encoding="utf-8")
        os.replace(begun, record)


def _has_files(directory: Path, sizes: Mapping[str, int]) -> bool:
    return all((directory / name).is_file() and (directory / name).stat().st_size == size for name, size in sizes.items())


class _Fetch:
    """One download of some objects into a directory, going on with what an earlier one left in `partial`."""

    def __init__(self, bucket: S3Bucket, objects: Sequence[S3Object], partial: Path, tell: Callable[[str], None], part_bytes: int) -> None:
        self._bucket = bucket
        self._objects = objects
        self._partial = partial
        self._tell = tell
        self._part_bytes = part_bytes
        self._uri = bucket.location.uri

    def into(self, target: Path) -> None:
        files = {file: item for item, file in zip(self._objects, self._begun(), strict=True)}
        missing = sum(file.missing_bytes() for file in files)
        require_space(missing, self._partial, f"The model {self._uri}", LARGER_DISK)
        total = sum(item.size for item in self._objects)
        rest = f", {amount(missing)} of it still missing" if missing < total else ""
        self._tell(f"downloading {self._uri}: {plural(len(files), 'file')}, {amount(total)}{rest}")
        progress = Progress(f"downloading {self._uri}", total, self._tell, done_bytes=total - missing)
        fetch_missing(list(files), lambda file, part: self._fetch(file, files[file], part, progress))
        self._check(files)
        publish(self._partial / "files", target)
        shutil.rmtree(self._partial, ignore_errors=True)

    def _begun(self) -> list[PartialFile]:
        folder, logs = self._partial / "files", self._partial / "parts"
        names = {item.name for item in self._objects}
        # Of a version that is gone.
        for path in [path for path in folder.rglob("*") if path.is_file()]:
            if str(path.relative_to(folder)) not in names:
                path.unlink()
        return [
            PartialFile(folder / item.name, logs / f"{item.name}.log", size=item.size, version=item.etag, part_bytes=self._part_bytes)
            for item in self._objects
        ]

    def _fetch(self, file: PartialFile, item: S3Object, part: Part, progress: Progress) -> None:
        for attempts_left in reversed(range(_PART_ATTEMPTS)):
            received = _Counted(self._bucket.read(item, part.start, part.num_bytes), progress)
            try:
                file.write(part, received)
            except S3BrokenOff:
                progress.advance(-received.num_bytes)
                if not attempts_left:
                    raise
            else:
                return

    def _check(self, files: Mapping[PartialFile, S3Object]) -> None:
        """Holds every file against the checksum that S3 has of it, where there is one that can be computed here."""
        self._tell(f"checking {self._uri}")
        with ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="check") as pool:
            checksums = list(pool.map(self._checksum, files.values()))
            digests = [
                [pool.submit(digest_of, file.path, checksum.algorithm, *piece) for piece in checksum.ranges(item.size)] if checksum else []
                for (file, item), checksum in zip(files.items(), checksums, strict=True)
            ]
            for (file, item), checksum, found in zip(files.items(), checksums, digests, strict=True):
                if checksum and not checksum.agrees([future.result() for future in found]):
                    file.discard()
                    raise ModelSourceError(
                        f"The download of {item.name} from {self._uri} does not match its {checksum.algorithm} checksum: it was damaged on "
                        f"the way or on this disk; its copy has been deleted, start again to fetch it anew."
                    )
        if unchecked := [item.name for item, checksum in zip(files.values(), checksums, strict=True) if checksum is None]:
            self._tell(f"S3 has no checksum that can be computed here of {first_few(unchecked)}: sizes agree")

    def _checksum(self, item: S3Object) -> Checksum | None:
        head = self._bucket.head(item.key, IfMatch=item.etag, ChecksumMode="ENABLED")
        # In an S3 Express bucket an ETag only looks like an MD5.
        if self._bucket.location.bucket.endswith("--x-s3"):
            head["ETag"] = ""
        return checksum_of(head, lambda: int(self._bucket.head(item.key, PartNumber=1)["ContentLength"]))


class _Counted:
    """Pieces of a body, counted as they come."""

    def __init__(self, pieces: Iterator[bytes], progress: Progress) -> None:
        self._pieces = pieces
        self._progress = progress
        self.num_bytes = 0

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self.num_bytes += len(piece)
            self._progress.advance(len(piece))
            yield piece
