"""A model's files as the platform lays them out before it starts a container: fetched from S3, unpacked, each name checked."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from headway.container.local.errors import validation_error
from headway.container.local.s3_objects import S3Uri, StorageError, explained, list_objects
from headway.server.errors import ModelSourceError
from headway.server.source.archive import unpack
from headway.server.source.space import require_space
from headway.server.words import first_few, plural

_MAX_OBJECTS = 20_000
_MAX_NAME_BYTES = 255
_ADVICE = "set TMPDIR to a directory on a larger disk"


@dataclass(frozen=True, slots=True)
class ModelData:
    """What belongs at /opt/ml/model, and (a folder a channel) at /opt/ml/additional-model-data-sources; None: nothing."""

    model: Path | None
    additional: Path | None


def fetch_model_data(container_definition: Mapping[str, Any], directory: Path, s3: Any) -> ModelData:
    """Makes ``model`` and ``additional-model-data-sources`` in ``directory`` of what a ContainerDefinition names. Blocks.

    ``s3`` is a boto3 client. Raises ModelSourceError (an endpoint's FailureReason), PlatformError for a definition that makes no sense.
    """
    url, source = container_definition.get("ModelDataUrl"), container_definition.get("ModelDataSource")
    if url and source:
        raise validation_error("You cannot specify both ModelDataUrl and ModelDataSource: give one of them.")
    model = additional = None
    if url:
        model = fetch_artifact(url, directory / "model", s3)
    elif source is not None:
        model = _fetch_source(_s3_source(source, "ModelDataSource"), "ModelDataSource.S3DataSource.S3Uri", directory / "model", s3)
    for channel in container_definition.get("AdditionalModelDataSources", ()):
        name = channel["ChannelName"]
        _require_name(name, f"AdditionalModelDataSources: the ChannelName {name!r}")
        additional = directory / "additional-model-data-sources"
        _fetch_source(
            _s3_source(channel, "AdditionalModelDataSources"), "AdditionalModelDataSources.S3DataSource.S3Uri", additional / name, s3
        )
    return ModelData(model, additional)


def fetch_artifact(url: str, target: Path, s3: Any) -> Path:
    """What a .tar.gz in S3 holds: ModelDataUrl, or ArtifactUrl of an adapter's inference component. ``target`` is made. Raises as above."""
    uri = S3Uri.of(url, "the model data URL")
    if not uri.key or uri.key.endswith("/"):
        raise validation_error(f"{uri} must be one .tar.gz archive: name its key, or use ModelDataSource for a prefix.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetched-", dir=target.parent) as folder:
        packed = Path(folder) / "model.tar.gz"
        _download(s3, uri, packed)
        try:
            unpack(packed, target)
        except ModelSourceError as error:
            raise ModelSourceError(str(error).replace(str(packed), str(uri))) from error
    return target


def _s3_source(source: Mapping[str, Any], member: str) -> Mapping[str, Any]:
    given: Mapping[str, Any] | None = source.get("S3DataSource")
    if given is None:
        raise validation_error(f"{member} needs S3DataSource.")
    for refused in ("ManifestS3Uri", "HubAccessConfig"):
        if given.get(refused):
            raise validation_error(
                f"{member}.S3DataSource.{refused} is for models of a hub, which a local runtime has none of: name their files."
            )
    return given


def _fetch_source(source: Mapping[str, Any], member: str, target: Path, s3: Any) -> Path:
    uri, kind, compression = S3Uri.of(source["S3Uri"], member), source["S3DataType"], source["CompressionType"]
    match kind, compression:
        case "S3Object", "Gzip":
            return fetch_artifact(str(uri), target, s3)
        case "S3Object", "None":
            name = uri.key.rpartition("/")[2]
            _require_name(name, f"{uri}: the file name {name!r}")
            target.mkdir(parents=True, exist_ok=True)
            _download(s3, uri, target / name)
            return target
        case "S3Prefix", "None":
            return _fetch_prefix(uri, target, s3)
    raise validation_error(
        f"{member} {uri}: S3DataType {kind} does not go with CompressionType {compression}; a prefix holds files as they are."
    )


def _fetch_prefix(prefix: S3Uri, target: Path, s3: Any) -> Path:
    if prefix.key and not prefix.key.endswith("/"):
        raise validation_error(f"S3Uri {prefix} must end in a slash, as S3DataType is S3Prefix.")
    try:
        found = list_objects(s3, prefix)
    except StorageError as error:
        raise _failed(prefix, error) from error
    if not found or len(found) > _MAX_OBJECTS:
        raise ModelSourceError(
            f"Could not use model data at {prefix}: it holds {plural(len(found), 'object')}; name the model's own prefix."
        )
    names = {key.removeprefix(prefix.key): size for key, size in found}
    _require_layout(names, prefix)
    target.mkdir(parents=True, exist_ok=True)
    require_space(sum(names.values()), target, f"The model {prefix}", _ADVICE)
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        _download(s3, S3Uri(prefix.bucket, prefix.key + name), target / name)
    return target


def _require_layout(names: Mapping[str, int], prefix: S3Uri) -> None:
    """Every name can be a path below the model's directory, and none is both a file and a folder."""
    for name in names:
        for part in name.split("/"):
            _require_name(part, f"{prefix}{name}: its part {part!r}")
    folders = {str(folder) for name in names for folder in PurePosixPath(name).parents}
    if clash := sorted(folders & names.keys()):
        raise ModelSourceError(f"{prefix} can't be laid out as files: {first_few(clash)} would be a file and a folder; rename one.")


def _require_name(part: str, what: str) -> None:
    if not part.strip() or part in (".", "..") or "/" in part or "\0" in part or len(part.encode()) > _MAX_NAME_BYTES:
        raise ModelSourceError(
            f"{what} can't be a file name on the platform (empty, '.', '..', or over {_MAX_NAME_BYTES} bytes); rename it."
        )


def _download(s3: Any, uri: S3Uri, path: Path) -> None:
    try:
        with explained(uri):
            size = int(s3.head_object(Bucket=uri.bucket, Key=uri.key)["ContentLength"])
            require_space(size, path.parent, f"The model data {uri}", _ADVICE)
            s3.download_file(uri.bucket, uri.key, str(path))
    except StorageError as error:
        raise _failed(uri, error) from error


def _failed(uri: S3Uri, error: StorageError) -> ModelSourceError:
    return ModelSourceError(
        f'Failed to download model data from URL: "{uri}". Please ensure that there is an object located at the URL and that the role '
        f"passed to CreateModel has permissions to download the model. ({error})"
    )
