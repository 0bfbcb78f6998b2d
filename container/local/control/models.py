"""Models: a container image, its environment and its data, by name."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headway.container.local.control.listing import page
from headway.container.local.control.names import MODEL
from headway.container.local.control.registry import Record, Registry, refused, tags_of
from headway.container.local.copies.base import CopySpec

_NOT_EMULATED = ("ModelPackageName", "MultiModelConfig")


@dataclass(slots=True, eq=False)
class Model(Record):
    """``words`` and ``model_directory`` are set for a model that the command line made: the API has no words for them."""

    words: tuple[str, ...] = ("serve",)
    model_directory: Path | None = None

    @property
    def container(self) -> dict[str, Any]:
        """Its ContainerDefinition."""
        definition: dict[str, Any] = self.request.get("PrimaryContainer") or self.request["Containers"][0]
        return definition

    def completed(self, spec: CopySpec) -> CopySpec:
        """With what the command line said of it."""
        return dataclasses.replace(spec, words=self.words, model_directory=self.model_directory or spec.model_directory)


class Models:
    def __init__(self, region: str) -> None:
        self.registry: Registry[Model] = Registry(region, MODEL)

    def create(self, request: dict[str, Any]) -> dict[str, Any]:
        check_container(_only_container(request))
        if "Image" not in _only_container(request):
            raise refused("Either an Image or a ModelPackageName must be given for a container, and this runtime runs Images.")
        name = request["ModelName"]
        self.registry.add(Model(name, self.registry.arn(name), request, tags_of(request)))
        return {"ModelArn": self.registry.arn(name)}

    def describe(self, request: dict[str, Any]) -> dict[str, Any]:
        model = self.registry.get(request["ModelName"])
        shown = {key: value for key, value in model.request.items() if key != "Tags"}
        return {"EnableNetworkIsolation": False, **shown, "ModelArn": model.arn, "CreationTime": model.created}

    def delete(self, request: dict[str, Any]) -> dict[str, Any]:
        self.registry.remove(self.registry.get(request["ModelName"]))
        return {}

    def list(self, request: dict[str, Any]) -> dict[str, Any]:
        return page(
            request,
            self.registry,
            "Models",
            lambda model: {"ModelName": model.name, "ModelArn": model.arn, "CreationTime": model.created},
        )


def check_container(container: dict[str, Any]) -> None:
    """Of a ContainerDefinition, or of an inference component's: refuses what this runtime doesn't do."""
    if found := [field for field in _NOT_EMULATED if container.get(field)]:
        raise refused(
            f"{found[0]} is not emulated by this runtime: give an Image with its Environment and ModelDataUrl or ModelDataSource."
        )
    if container.get("Mode") == "MultiModel":
        raise refused("Mode MultiModel is not emulated by this runtime: serve one model a container, or adapters of it.")
    if "ModelDataUrl" in container and "ModelDataSource" in container:
        raise refused("Only one of ModelDataUrl and ModelDataSource can be given.")


def _only_container(request: dict[str, Any]) -> dict[str, Any]:
    containers = [request["PrimaryContainer"]] if "PrimaryContainer" in request else []
    containers += request.get("Containers", [])
    if not containers:
        raise refused("One of PrimaryContainer and Containers must be given.")
    if len(containers) > 1:
        raise refused("This runtime runs one container a model: inference pipelines and multi-container endpoints are not emulated.")
    definition: dict[str, Any] = containers[0]
    return definition
