"""Whether a model fits an instance type, and what remains for requests: the engine's own decisions, on a machine that is not here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from headway.container.instances import Instance
from headway.server.config.server import ServerConfig
from headway.server.sizing.model import ModelShape


@dataclass(frozen=True, slots=True)
class FitReport:
    """One model on one device of an instance, in bytes of the device's memory: the GPU's, or the host's where there is none.

    ``problems`` are sentences; with any the server would not start there, and counts of blocks may be 0.
    """

    instance: Instance
    device: Literal["cpu", "cuda"]
    device_bytes: int
    reserved_bytes: int  # estimated: what else is in that memory, the CUDA context, or the system and our processes
    dtype: str  # of activations and cache: "bfloat16"
    weight_format: str  # "bf16", "int8 (8-bit activations)"
    weight_bytes: int
    adapter_bytes: int  # room for LoRA adapters
    activation_bytes: int  # the largest step's, beside weights and cache
    block_size: int  # tokens
    bytes_per_block: int  # 0: a model that keeps no keys and values
    num_blocks: int
    max_model_len: int  # as served
    longest_context: int  # that would fit, up to the model's own limit
    max_num_seqs: int  # most requests in a step
    tensor_parallel_sizes: tuple[int, ...]  # that divide the model, up to 8; this version runs one device
    problems: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        return not self.problems

    @property
    def kv_cache_bytes(self) -> int:
        return self.num_blocks * self.bytes_per_block

    @property
    def num_kv_tokens(self) -> int:
        return self.num_blocks * self.block_size

    def num_requests(self, context: int) -> int:
        """How many requests of ``context`` tokens, prompt and answer, are computed at a time without waiting for one another."""
        raise NotImplementedError


def fit_report(config: ServerConfig, shape: ModelShape, instance: Instance) -> FitReport:
    """``config``: Resolved.config; ``shape``: sizing.model.read_shape(config, files). What can't work is told in ``problems``."""
    raise NotImplementedError


def fitting_instances(config: ServerConfig, shape: ModelShape) -> list[FitReport]:
    """Of the instance types on which the server would start: the smallest accelerator memory first, then the least host memory; CPU
    types come first, since they have none."""
    raise NotImplementedError
