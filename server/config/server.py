"""The tree of all options, and what can't be used together."""

from __future__ import annotations

from headway.server.config.cache import CacheConfig
from headway.server.config.fields import Setting, Topic, settings_of
from headway.server.config.http import HttpConfig
from headway.server.config.logs import LogConfig
from headway.server.config.lora import LoraConfig, lora_problems
from headway.server.config.model import ModelConfig, model_problems
from headway.server.config.network import NetworkConfig, network_problems
from headway.server.config.observability import ObservabilityConfig
from headway.server.config.overload import OverloadConfig
from headway.server.config.sagemaker import SagemakerConfig
from headway.server.config.scheduler import SchedulerConfig
from headway.server.config.security import SecurityConfig, security_problems


class ServerConfig(Topic):
    """Everything a user may set, as asked; frozen. What was decided from it is config/plan.py's and EngineInfo's."""

    model: ModelConfig = ModelConfig()
    cache: CacheConfig = CacheConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    lora: LoraConfig = LoraConfig()
    network: NetworkConfig = NetworkConfig()
    security: SecurityConfig = SecurityConfig()
    overload: OverloadConfig = OverloadConfig()
    http: HttpConfig = HttpConfig()
    sagemaker: SagemakerConfig = SagemakerConfig()
    logs: LogConfig = LogConfig()
    observability: ObservabilityConfig = ObservabilityConfig()


def secrets_of(config: ServerConfig) -> list[str]:
    """The texts of every option that is declared a secret."""
    values = [getattr(getattr(config, setting.topic), setting.name) for setting in _secret_settings()]
    return [text for value in values for text in (value if isinstance(value, list) else [value]) if text]


def without_secrets(config: ServerConfig) -> ServerConfig:
    """For a process that needs none of them."""
    for setting in _secret_settings():
        topic = getattr(config, setting.topic).model_copy(update={setting.name: setting.default})
        config = config.model_copy(update={setting.topic: topic})
    return config


MODEL_MISSING = (
    "no model is given: name one on the command line (`headway serve MODEL`), as `model:` in the --config file, or in SM_VLLM_MODEL; "
    "`demo` is a small one to try"
)


def problems(config: ServerConfig) -> list[str]:
    """A sentence for each thing in a config that can't be served, beside a missing model; empty when all is well."""
    return [
        *model_problems(config.model),
        *_size_problems(config),
        *lora_problems(config.lora),
        *network_problems(config.network),
        *security_problems(config.security),
        *_api_process_problems(config),
    ]


def warnings(config: ServerConfig) -> list[str]:
    """A sentence for each thing that was asked for and has no effect."""
    sagemaker = config.sagemaker
    if sagemaker.enable_custom_handlers:
        return []
    asked = [name for name in _CUSTOM_CODE if getattr(sagemaker, name) is not None]
    return [f"--{name.replace('_', '-')} is not used: code of your own runs with --enable-custom-handlers only" for name in asked]


_CUSTOM_CODE = (
    "custom_script",
    "custom_ping_handler",
    "custom_invocation_handler",
    "custom_throttle_middleware",
    "custom_pre_post_process_middleware",
    "custom_pre_process",
    "custom_post_process",
)


def _secret_settings() -> list[Setting]:
    return [setting for setting in settings_of(ServerConfig) if setting.option.secret]


def _api_process_problems(config: ServerConfig) -> list[str]:
    """What is kept in one API process can't be found by the next request, which another may get."""
    if config.network.api_server_count == 1:
        return []
    kept = {
        "--enable-stateful-sessions": (config.sagemaker.enable_stateful_sessions, "a session is kept by the process that opened it"),
        "--enable-lora": (config.lora.enable_lora, "an adapter is registered in the process that was asked to"),
        "--enable-custom-handlers": (config.sagemaker.enable_custom_handlers, "a script's variables would differ between the processes"),
    }
    count = config.network.api_server_count
    return [f"{flag} needs --api-server-count 1, not {count}: {why}" for flag, (is_on, why) in kept.items() if is_on]


def _size_problems(config: ServerConfig) -> list[str]:
    found = []
    scheduler, cache, length = config.scheduler, config.cache, config.model.max_model_len
    budget, num_seqs = scheduler.max_num_batched_tokens, scheduler.max_num_seqs
    if budget is not None and num_seqs is not None and budget < num_seqs:
        found.append(f"--max-num-batched-tokens ({budget}) must be at least --max-num-seqs ({num_seqs}): a step gives each request a token")
    if isinstance(length, int) and length > 0:
        if budget is not None and not scheduler.enable_chunked_prefill and budget < length:
            found.append(
                f"--max-num-batched-tokens ({budget}) must be at least --max-model-len ({length}) with --no-enable-chunked-prefill: "
                "a prompt then has to fit in one step"
            )
        if scheduler.long_prefill_token_threshold > length:
            found.append(
                f"--long-prefill-token-threshold ({scheduler.long_prefill_token_threshold}) must not exceed --max-model-len ({length})"
            )
    if cache.kv_cache_memory_bytes is not None and cache.num_gpu_blocks_override is not None:
        found.append("--kv-cache-memory-bytes and --num-gpu-blocks-override both set the size of the KV cache: leave one of them out")
    return found
