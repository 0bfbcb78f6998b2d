"""What builds a model of each shape. Torch comes with the layers, so they are imported when a model is built: configs are read without."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headway.server.models.base import BuildContext, DecoderConfig, EncoderConfig, Model
    from headway.server.models.modernbert_config import ModernBertConfig


def build_decoder(config: DecoderConfig, context: BuildContext) -> Model:
    from headway.server.models.decoder import DecoderModel
    from headway.server.models.decoder_kinds import kind_of

    return DecoderModel(config, context, kind_of(config))


def build_pooled_decoder(config: DecoderConfig, context: BuildContext) -> Model:
    from headway.server.models.decoder_kinds import kind_of
    from headway.server.models.pooled_decoder import PooledDecoder

    return PooledDecoder(config, context, kind_of(config))


def build_encoder(config: EncoderConfig, context: BuildContext, head_activation: str) -> Model:
    """See models/encoder.py EncoderModel."""
    from headway.server.models.encoder import EncoderModel

    return EncoderModel(config, context, head_activation)


def build_modernbert(config: ModernBertConfig, context: BuildContext) -> Model:
    from headway.server.models.modernbert_model import ModernBertModel

    return ModernBertModel(config, context)
