"""Decoders that pool texts: without the head that says which token is next, with a classifier's where the model is one."""

from __future__ import annotations

from torch import Tensor

from headway.server.models.base import BuildContext, DecoderConfig
from headway.server.models.decoder import Decoder, DecoderBranches
from headway.server.models.head import ClassifierHead


class PooledDecoder(Decoder):
    """See models/base.py Model."""

    def __init__(self, config: DecoderConfig, context: BuildContext, layer: type[DecoderBranches]) -> None:
        super().__init__(config, context, layer)
        self.head = ClassifierHead(config.hidden_size, config.num_labels, context, bias=False) if config.num_labels else None

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden.float() if self.head is None else self.head(hidden)
