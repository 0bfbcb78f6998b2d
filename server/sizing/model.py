"""What a model's own files say of it, in the words that a plan is made from: read without its weights."""

from __future__ import annotations

from dataclasses import dataclass

from headway.server.config.plan import ModelFacts
from headway.server.config.server import ServerConfig
from headway.server.distributed.places import WHOLE, PipelineStage
from headway.server.errors import ConfigError
from headway.server.layers.quant.scheme import WeightScheme
from headway.server.loading.model_config import read_config
from headway.server.loading.pooled_files import PooledFiles, read_pooled
from headway.server.loading.use import Use, use_of
from headway.server.models.base import DecoderConfig, EncoderConfig, ModelConfig
from headway.server.models.transformers_config import ModelCode, TransformersConfig
from headway.server.source.files import ModelFiles


@dataclass(frozen=True, slots=True)
class ModelShape:
    use: Use
    config: ModelConfig
    facts: ModelFacts
    most_experts: int | None = None  # of a layer, on a device that has some of them whole; None: it has a part of each
    stage: PipelineStage = WHOLE  # of its layers

    @property
    def held_experts(self) -> int:
        """Experts of a layer that a device has all or a part of."""
        if self.most_experts is not None:
            return self.most_experts
        return self.config.num_experts if isinstance(self.config, DecoderConfig) else 0


def read_shape(config: ServerConfig, files: ModelFiles) -> ModelShape:
    """Of the model as it would be served; of a safetensors directory config.json is enough. Raises ModelSourceError or ConfigError for
    what is not supported."""
    use = chosen_use(config, files)
    if use == "generate":
        shape = read_config(files, config.model.config_overrides, model_code(config))
        return ModelShape(use, shape, generating_facts(shape))
    source = read_pooled(files, use == "classify", config.model.config_overrides)
    return ModelShape(use, source.config, pooling_facts(source))


def model_code(config: ServerConfig) -> ModelCode:
    """Whose code may run, as it was asked."""
    model = config.model
    return ModelCode(model.model_impl, model.trust_remote_code, model.code_revision)


def chosen_use(config: ServerConfig, files: ModelFiles) -> Use:
    """Raises ConfigError for options that a model of this kind has no use for, and ModelSourceError for what it can't be."""
    if files.kind == "gguf" and config.model.config_overrides:
        raise ConfigError(["--hf-overrides and --rope-scaling change a config.json, and a GGUF file has none: leave them out"])
    use = use_of(files, config.pooling.runner, config.pooling.convert, config.model.config_overrides)
    if use != "generate" and (problems := _not_for_pooling(config)):
        raise ConfigError(problems)
    return use


def generating_facts(shape: DecoderConfig) -> ModelFacts:
    scheme = shape.scheme
    if scheme is None:
        return ModelFacts(
            shape.checkpoint_dtype,
            shape.max_model_len,
            shape.is_quantized_gguf,
            records_graphs=not isinstance(shape, TransformersConfig),
            keeps_latents=shape.latent is not None,
        )
    return ModelFacts(
        shape.checkpoint_dtype,
        shape.max_model_len,
        is_quantized_gguf=False,
        quant_method=scheme.method,
        keeps_on=_keeps_on(scheme),
        has_fp8_cache=scheme.has_fp8_cache,
        is_groupable=scheme.is_groupable,
        keeps_latents=shape.latent is not None,
    )


def _keeps_on(scheme: WeightScheme) -> frozenset[str]:
    """On a CPU fp8 has no product, nor have 4 bits as they are: see WeightScheme.is_groupable."""
    return frozenset([*(["cuda"] if scheme.product is not None else []), *(["cpu"] if scheme.product == "int8" else [])])


def pooling_facts(source: PooledFiles) -> ModelFacts:
    """A quantised GGUF's weights are kept in full: vectors are compared by their small differences."""
    return ModelFacts(
        source.config.checkpoint_dtype,
        source.max_tokens,
        is_quantized_gguf=False,
        pools=True,
        computes_whole_texts=isinstance(source.config, EncoderConfig),
    )


def _not_for_pooling(config: ServerConfig) -> list[str]:
    problems = []
    if config.model.model_impl == "transformers":
        problems.append("--model-impl transformers is for models that generate text: leave it out, since this one pools")
    if config.model.quantization not in (None, "none"):
        problems.append(f"--quantization {config.model.quantization} is for models that generate text: leave it out, since this one pools")
    problems += [f"{asked} is for models that generate text: leave it out, since this one pools" for asked in config.parallel.asked]
    if config.parallel.enable_expert_parallel:
        problems.append("--enable-expert-parallel is for models that generate text: leave it out, since this one pools")
    if (size := config.parallel.decode_context_parallel_size) > 1:
        problems.append(f"--decode-context-parallel-size {size} is for models that generate text: leave it out, since this one pools")
    if (backend := config.attention.attention_backend) != "auto":
        problems.append(f"--attention-backend {backend} is for models that generate text: leave it out, since this one pools")
    if config.lora.enable_lora:
        problems.append("--enable-lora is for models that generate text: leave it out, since this one pools")
    return problems
