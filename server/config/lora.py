"""Options about LoRA adapters."""

from __future__ import annotations

import json
from dataclasses import dataclass

from headway.server.config.fields import Topic, option

_OF_ADAPTERS = ("max_loras", "max_cpu_loras", "max_lora_rank", "lora_allowed_prefixes", "allow_runtime_lora_updating")


class LoraConfig(Topic):
    """LoRA adapters."""

    enable_lora: bool = option(False, "Serve LoRA adapters: --lora-modules at the start, /adapters while it runs.")
    max_loras: int = option(
        4,
        "Adapters that are in the device's memory at once, which is set aside for them. Others are loaded when they are asked for, in the "
        "place of the one that was idle longest.",
        ge=1,
        le=4096,
        environment=("SAGEMAKER_MAX_NUMBER_OF_ADAPTERS_IN_MEMORY",),
    )
    max_cpu_loras: int | None = option(
        None,
        "Adapters that are in the host's memory at once, those on the device included, so that they need not be read again: at least "
        "--max-loras, which is also the default.",
        ge=1,
    )
    max_lora_rank: int = option(16, "Largest rank of an adapter.", ge=1, le=512)
    lora_modules: list[str] = option([], 'Adapters to load at the start: name=directory, or {"name": .., "path": ..}.')
    lora_allowed_prefixes: list[str] = option(["/opt/ml/"], "Directories below which a request may have an adapter loaded from.")
    allow_runtime_lora_updating: bool = option(
        False,
        "vLLM's routes /v1/load_lora_adapter and /v1/unload_lora_adapter.",
        environment=("VLLM_ALLOW_RUNTIME_LORA_UPDATING",),
    )

    @property
    def num_host_loras(self) -> int:
        """Adapters in the host's memory at most."""
        return self.max_loras if self.max_cpu_loras is None else self.max_cpu_loras


@dataclass(frozen=True, slots=True)
class LoraModule:
    name: str
    path: str


def lora_module(text: str) -> LoraModule:
    """One item of --lora-modules. Raises ValueError with what is wrong with it."""
    if not text.lstrip().startswith("{"):
        name, _, path = text.partition("=")
        if not (name.strip() and path.strip()):
            raise ValueError(f"--lora-modules: expected name=directory, got {text!r}")
        return LoraModule(name.strip(), path.strip())
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = {}
    if not isinstance(values, dict) or values.keys() != {"name", "path"} or not all(v and isinstance(v, str) for v in values.values()):
        raise ValueError(f'--lora-modules: expected {{"name": "..", "path": ".."}} and no other keys, got {text}')
    return LoraModule(**values)


def lora_problems(lora: LoraConfig) -> list[str]:
    """A sentence for each thing that can't be served."""
    relative = [prefix for prefix in lora.lora_allowed_prefixes if not prefix.startswith("/")]
    found = [f"--lora-allowed-prefixes must hold absolute paths, got {prefix!r}" for prefix in relative]
    if not lora.enable_lora:
        return [*found, "--lora-modules needs --enable-lora"] if lora.lora_modules else found
    if lora.num_host_loras < lora.max_loras:
        found.append(
            f"--max-cpu-loras {lora.max_cpu_loras} is less than --max-loras {lora.max_loras}: it counts those on the device too; raise it"
        )
    names = []
    for text in lora.lora_modules:
        try:
            names.append(lora_module(text).name)
        except ValueError as problem:
            found.append(str(problem))
    if doubles := sorted({name for name in names if names.count(name) > 1}):
        found.append(f"--lora-modules must not repeat a name, got {', '.join(doubles)} more than once")
    return found


def lora_warnings(lora: LoraConfig) -> list[str]:
    """A sentence for each thing that was asked for and has no effect."""
    if lora.enable_lora:
        return []
    unused = [name for name in _OF_ADAPTERS if getattr(lora, name) != LoraConfig.model_fields[name].default]
    return [f"--{name.replace('_', '-')} has no effect without --enable-lora: no adapter is served" for name in unused]
