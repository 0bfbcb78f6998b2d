"""A model as the plan has it: what the loader is asked for, of the one that is served as of one that drafts for it."""

from __future__ import annotations

from typing import Any

import torch

from headway.server.config.plan import Plan
from headway.server.config.server import ServerConfig
from headway.server.distributed.groups import TensorParallelGroup
from headway.server.loading.loader import load_model
from headway.server.models.base import LoadedModel
from headway.server.sizing.model import model_code
from headway.server.source.files import ModelFiles


def load_planned(
    files: ModelFiles, config: ServerConfig, plan: Plan, device: torch.device, group: TensorParallelGroup, **more: Any
) -> LoadedModel:
    """The same whenever it is called. ``more``: what else load_model takes. Raises as that does."""
    return load_model(
        files,
        dtype=plan.dtype,
        device=device,
        quantization=plan.quantization,
        load_format=config.model.load_format,
        group=group,
        seed=config.model.seed,
        max_model_len=plan.max_model_len,
        code=model_code(config),
        **more,
    )
