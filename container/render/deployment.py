"""What is to run and where: what every target of `headway render` writes down."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from headway.container.instances import Instance
from headway.container.render.image import EcrImage
from headway.server.config.server import ServerConfig

# ml.m5d, ml.c6gd: a d behind the generation is a disk of the instance's own; so has every GPU instance but the p3.
_OWN_DISK = re.compile(r"ml\.[a-z]+\d+[a-z]*d[a-z]*\.")


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter: ``artifact`` is s3://BUCKET/KEY.tar.gz."""

    name: str
    artifact: str


@dataclass(frozen=True, slots=True)
class Scale:
    """Bounds of the number of copies. ``concurrency``: open requests a copy that scaling aims at; ``rows``: most that one serves."""

    minimum: int
    maximum: int
    concurrency: float
    rows: int

    @property
    def is_automatic(self) -> bool:
        return self.maximum > self.minimum


@dataclass(frozen=True, slots=True)
class AsyncOutput:
    """Asynchronous inference. Addresses are s3://BUCKET/PREFIX; ``input_uri``: where the callers put requests."""

    output_uri: str
    failure_uri: str | None
    input_uri: str | None
    success_topic: str | None
    error_topic: str | None
    max_concurrent: int


@dataclass(frozen=True, slots=True)
class Hosting:
    """What only SageMaker needs to know. ``role`` None: one is made with the rights that the deployment needs, or, without
    ``makes_role``, it is asked for where the rendered text is run."""

    instance: Instance
    image: EcrImage
    partition: str
    region: str
    account: str
    role: str | None
    makes_role: bool
    ami: str | None
    kms_key: str | None
    volume_gb: int | None
    download_timeout_s: int
    asynchronous: AsyncOutput | None

    @property
    def has_own_disk(self) -> bool:
        """Whether the instance type brings a disk, encrypted by itself: SageMaker then takes neither a size nor a key for one."""
        name = self.instance.name
        return bool(_OWN_DISK.match(name)) or (self.instance.gpu is not None and not name.startswith("ml.p3."))


@dataclass(frozen=True, slots=True)
class Deployment:
    """``environ`` holds no secret, at most where one stands. ``words`` are those after the image's name, none on SageMaker: there
    ``environ`` says what they said. ``model_data`` is s3://BUCKET/PREFIX/ or an archive there, ``model_directory`` one of this
    machine. ``prometheus`` is the server that KEDA asks on Kubernetes, None without KEDA.
    """

    name: str
    image: str
    environ: Mapping[str, str]
    words: tuple[str, ...]
    config: ServerConfig
    model_directory: Path | None
    model_data: str | None
    adapters: tuple[Adapter, ...]
    instance: Instance | None
    scale: Scale
    startup_timeout_s: int
    tags: Mapping[str, str]
    hosting: Hosting | None
    prometheus: str | None

    @property
    def num_gpus(self) -> int:
        return self.instance.num_gpus if self.instance else 0

    @property
    def gpus_a_copy(self) -> int:
        """What a copy uses, where there are GPUs: each engine has one for each rank of the model."""
        if self.config.model.device == "cpu":
            return 1
        return self.config.data_parallel.data_parallel_size * self.config.parallel.num_ranks

    @property
    def on_sagemaker(self) -> Hosting:
        """For SageMaker's targets, whose deployments all have one."""
        assert self.hosting is not None
        return self.hosting
