"""Makes server/models/transformers_classes.json and transformers_refused.json from the transformers that is installed:
`python tests/support/transformers_table.py`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from headway.server.models.transformers_mixture import MIXTURE_KEYS, SHARED_KEYS

TABLE = Path(__file__).resolve().parents[2] / "server/models/transformers_classes.json"
REFUSED = TABLE.with_name("transformers_refused.json")
# What fits no attention of ours, or no loader, by what was tried, and why.
NOT_SERVED = {
    "BitNetForCausalLM": "its checkpoints are quantised in a way of their own",
    "CohereCompassForCausalLM": "its layers are of kinds that attention here has not",
    "DiffLlamaForCausalLM": "its layers attend more than once",
    "DogeForCausalLM": "its attention takes masks of its own",
    "DoryForCausalLM": "its head is of a kind of its own",
    "Dots3NoteForCausalLM": "it takes more than text",
    "GPTBigCodeForCausalLM": "its config.json says nothing of its key-value heads",
    "Gemma3nForCausalLM": "its layers share keys and values",
    "Gemma4ForCausalLM": "its layers share keys and values",
    "Gemma4UnifiedForCausalLM": "its layers share keys and values",
    "HrmTextForCausalLM": "its checkpoints have tensors that are taken apart",
    "JetMoeForCausalLM": "it has experts inside its attention",
    "Lfm2ForCausalLM": "it keeps a state beside keys and values",
    "Lfm2MoeForCausalLM": "it keeps a state beside keys and values",
    "Lfm3ForCausalLM": "it keeps a state beside keys and values",
    "Llama4ForCausalLM": "its attention takes masks of its own",
    "MiMoV2FlashForCausalLM": "its layers differ in key-value heads",
    "MiniMaxForCausalLM": "it keeps a state beside keys and values",
    "MiniMaxM3VLForCausalLM": "its attention chooses blocks of keys for each token",
    "ModernBertDecoderForCausalLM": "its config.json says nothing of its key-value heads",
    "MoshiForCausalLM": "it takes more than text",
    "NemotronForCausalLM": "it does not hand on what attention needs of a step",
}
# Encoders that once were decoders, and what has positions or attention of its own.
_OTHERS = (
    "Bert",
    "RoBerta",
    "Roberta",
    "Camembert",
    "Electra",
    "Ernie",
    "Data2Vec",
    "RoC",
    "Xmod",
    "XLMRoberta",
    "CTRL",
    "OPT",
    "GPT2",
    "Dbrx",
)
_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "hidden_act",
    "tie_word_embeddings",
    *MIXTURE_KEYS,
)

_CHANGED = ("hidden_size", "num_attention_heads")


def table() -> dict[str, dict[str, Any]]:
    """Architecture -> the fields of models/transformers_config.KnownClass."""
    return {name: _entry(config) for name, config, why in _classes() if not why}


def refused() -> dict[str, str]:
    """Architecture -> why transformers' class of this name is not served."""
    found = list(_classes())
    served = {name for name, _, why in found if not why}
    return dict(sorted({name: why for name, _, why in found if why and name not in served}.items()))


def _classes() -> Iterator[tuple[str, Any, str]]:
    """(architecture, a config of it, why it is not served or ""), each served one once."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    found: set[str] = set()
    for model_type, name in sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items(), key=lambda item: (str(item[1]), item[0])):
        if not isinstance(name, str) or name in found or (name.startswith(_OTHERS) and not name.startswith("Ernie4_5")):
            continue
        config_class = CONFIG_MAPPING[model_type]
        if name in NOT_SERVED:
            yield name, None, NOT_SERVED[name]
            continue
        try:
            config = config_class()
        except Exception:  # some configs have no defaults: those of several kinds of inputs
            continue
        model_class = MODEL_FOR_CAUSAL_LM_MAPPING[config_class]
        if isinstance(model_class, tuple):
            continue
        why = _why_not(model_class, config)
        if why:
            yield name, config, why
        elif model_class.config_class is type(config):  # else it serves another kind of configs too
            found.add(name)
            yield name, config, ""


def _why_not(model_class: Any, config: Any) -> str:
    """Why a class is not served, by what it says of itself; "" where it may be."""
    if model_class._is_stateful:
        return "it keeps a state beside keys and values"
    if config.is_encoder_decoder:
        return "it has an encoder"
    if any(hasattr(config, key) for key in ("vision_config", "audio_config", "text_config")):
        return "it takes more than text"
    if any(getattr(config, key, None) for key in ("kv_lora_rank", "qk_nope_head_dim")):
        return "its attention is latent"
    if not model_class._supports_attention_backend:
        return "its attention can't be handed to another's"
    return ""


def _entry(config: Any) -> dict[str, Any]:
    # Not by the other names that a class knows a key by, of which a file has one.
    aliases = {key for key in config.attribute_map if key in MIXTURE_KEYS and config.attribute_map[key] in MIXTURE_KEYS}
    defaults = {key: value for key in _KEYS if key not in aliases and (value := getattr(config, key, None)) is not None}
    # Some are computed from others, which a file may change.
    other = type(config)(hidden_size=2 * config.hidden_size, num_attention_heads=4 * config.num_attention_heads)
    defaults = {key: value for key, value in defaults.items() if key in _CHANGED or getattr(other, key, None) == value}
    if kinds := getattr(config, "mlp_layer_types", None):
        defaults["first_k_dense_replace"] = kinds.index("sparse")
    if _has_feed_forward_beside_experts(model := _empty_model(config), config) and not any(key in defaults for key in SHARED_KEYS):
        defaults["num_shared_experts"] = 1
    names = {key: name for key, name in config.attribute_map.items() if key in _KEYS and key not in aliases}
    has_sinks = any(name.endswith(".sinks") for name, _ in model.named_parameters())
    is_gated = _has_experts(model) or _is_gated(model, config)
    return {"model_type": config.model_type, "names": names, "defaults": defaults, "is_gated": is_gated, "has_sinks": has_sinks}


def _empty_model(config: Any) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    if getattr(config, "head_dim", 0) is None:  # which the class's own checkpoints say
        config.head_dim = config.hidden_size // config.num_attention_heads
    if getattr(config, "n_routed_experts", 0) is None:
        config.n_routed_experts, config.num_experts_per_tok, config.n_shared_experts = 8, 2, 1
        config.n_group, config.topk_group = 1, 1
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def _has_experts(model: Any) -> bool:
    return any(parameter.dim() == 3 for parameter in model.parameters())


def _has_feed_forward_beside_experts(model: Any, config: Any) -> bool:
    """Of the size that the config has for experts."""
    blocks = {name.rpartition(".")[0] for name, module in model.named_modules() if name.endswith(".experts")}
    downs = [
        name for name, module in model.named_modules() if getattr(module, "in_features", 0) == getattr(config, "intermediate_size", None)
    ]
    return any(name.startswith(f"{block}.") for name in downs for block in blocks)


def _is_gated(model: Any, config: Any) -> bool:
    """Whether the feed-forward layer has two projections up, or one of twice the size."""
    import torch

    inner = config.intermediate_size if getattr(config, "intermediate_size", None) else 4 * config.hidden_size
    layer = next(module for module in model.modules() if isinstance(module, torch.nn.ModuleList))[0]
    ups = [m.out_features for m in layer.modules() if isinstance(m, torch.nn.Linear) and m.in_features == config.hidden_size]
    return ups.count(inner) > 1 or 2 * inner in ups


if __name__ == "__main__":
    TABLE.write_text(json.dumps(table(), indent=1) + "\n")
    REFUSED.write_text(json.dumps(refused(), indent=1) + "\n")
