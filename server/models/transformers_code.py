"""From a config to the model as `transformers` builds it, without memory for its weights."""

from __future__ import annotations

import logging
import re
from typing import Any

import torch

from headway.server.errors import ModelSourceError
from headway.server.models.transformers_attention import NAME, register
from headway.server.models.transformers_config import TransformersConfig
from headway.server.models.transformers_experts import FoundExperts

# "local_params" says how transformers hands parameters to a module that is cut; ours are there as they are.
_WHOLE_STYLES = ("replicated_with_grad_allreduce", "replicated", "local_params")
_CUT_STYLES = ("colwise", "rowwise", "colwise_gather_output", "rowwise_split_input", "embedding_rowwise")
# model_type -> the key of its config for as many positions as a table of sines and cosines is computed of.
_TABLE_KEYS = {"codegen": "n_positions", "gptj": "n_positions"}
_LAYER_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def empty_model(config: TransformersConfig, max_model_len: int) -> Any:
    """The causal language model on the meta device, whose attention is ours. ``max_model_len``: positions that will be asked for. Raises
    ModelSourceError."""
    from transformers import AutoModelForCausalLM

    register()
    logging.getLogger("transformers").setLevel(logging.ERROR)  # its advice is for those who train
    model_class = _code_class(config)
    try:
        hf_config = _hf_config(config, max_model_len)
        with torch.device("meta"):
            if model_class is None:
                model = AutoModelForCausalLM.from_config(hf_config, attn_implementation=NAME)
            else:
                model = model_class._from_config(hf_config, attn_implementation=NAME)
    except ModelSourceError:
        raise
    except Exception as problem:  # whatever a class thinks of a config, or the model's own code does
        raise ModelSourceError(
            f"transformers can't build {config.model_class} from {config.directory / 'config.json'}: "
            f"{type(problem).__name__}: {problem}; check that the files belong together."
        ) from problem
    if not model._supports_attention_backend:
        raise ModelSourceError(
            f"{type(model).__name__} brings attention of its own (it lacks _supports_attention_backend), so that keys and values can't be "
            "kept in pages; serve a model of a class that has it."
        )
    if getattr(model, "_is_stateful", False):
        raise ModelSourceError(f"{type(model).__name__} keeps a state beside keys and values, which is not done through transformers.")
    return model.eval().requires_grad_(False)


def fill_buffers(model: Any, device: torch.device) -> None:
    """What modules compute from the config, such as the frequencies of rotations, where no checkpoint has it."""
    for module in model.modules():
        names = [name for name, buffer in module.named_buffers(recurse=False) if buffer.is_meta]
        if not names:
            continue
        for name in names:
            module._buffers[name] = torch.empty_like(module._buffers[name], device="cpu")
        model._init_weights(module)
        for name in names:
            module._buffers[name] = module._buffers[name].to(device)


def is_exact(model: Any, name: str, dtype: torch.dtype) -> bool:
    """Whether a tensor is fp32 in a model whose others are ``dtype``, as its class says: biases of a router, and sinks."""
    patterns = model._keep_in_fp32_modules_strict or () if dtype != torch.float32 else ()
    patterns = [*patterns, *((model._keep_in_fp32_modules or ()) if dtype == torch.float16 else ())]
    return any(re.search(pattern, name) for pattern in patterns)


def split_styles(model: Any, config: TransformersConfig, size: int, experts: list[FoundExperts]) -> dict[str, str]:
    """Module, or a parameter with a cut of its own -> how the model's tensor-parallel plan cuts it over ``size`` ranks; without an entry it
    is whole on each. ``experts`` are cut as ours are, whatever it says of them.

    Raises ModelSourceError where there is no plan, or one with a cut that is not done."""
    if size == 1:
        return {}
    plan = {f"{model.base_model_prefix}.{name}": style for name, style in (getattr(model.config, "base_model_tp_plan", None) or {}).items()}
    of_experts = tuple(_LAYER_NUMBER.sub("*", found.name) for found in experts)
    plan = {name: style for name, style in plan.items() if not name.startswith(of_experts)}
    if not experts and not any(style.startswith("colwise") for style in plan.values()):
        raise ModelSourceError(
            f"{config.model_class} has no tensor-parallel plan in transformers that cuts its layers, so that it can't be split: "
            "leave --tensor-parallel-size out."
        )
    if strange := sorted(set(plan.values()) - {*_CUT_STYLES, *_WHOLE_STYLES}):
        raise ModelSourceError(
            f"The tensor-parallel plan of {config.model_class} has the cut {strange[0]}, which is not done: "
            "leave --tensor-parallel-size out."
        )
    names = [name for name, _ in (*model.named_modules(), *model.named_parameters())]
    found = {name: plan.get(_LAYER_NUMBER.sub("*", name), "") for name in names}
    return {name: style for name, style in found.items() if style in _CUT_STYLES}


def _hf_config(config: TransformersConfig, max_model_len: int) -> Any:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    values = dict(config.values) | {"output_router_logits": False}  # which are for those who train
    own = (values.get("auto_map") or {}).get("AutoConfig") if config.code_class is not None else None
    if own is not None:
        return _own_class(config, own).from_dict(values)
    kind = values.get("model_type")
    if kind not in CONFIG_MAPPING:
        raise ModelSourceError(f"The model_type {kind!r} in {config.directory / 'config.json'} is none that transformers knows.")
    if kind in _TABLE_KEYS:
        values[_TABLE_KEYS[kind]] = max_model_len
    return CONFIG_MAPPING[kind].from_dict(values)


def _code_class(config: TransformersConfig) -> Any:
    return None if config.code_class is None else _own_class(config, config.code_class)


def _own_class(config: TransformersConfig, reference: str) -> Any:
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    assert config.code.is_trusted, "code that nobody trusts is refused when the config is read"
    try:
        return get_class_from_dynamic_module(reference, config.directory, code_revision=config.code.revision)
    except Exception as problem:  # the code is anybody's
        raise ModelSourceError(
            f"The model's own code {reference} can't be loaded ({type(problem).__name__}: {problem}); check the files beside "
            f"{config.directory / 'config.json'}."
        ) from problem
