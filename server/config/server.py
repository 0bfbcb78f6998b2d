"""The tree of all options, and what can't be used together."""

from __future__ import annotations

from headway.server.config.cache import CacheConfig
from headway.server.config.chat import ChatConfig, chat_problems
from headway.server.config.compilation import CompilationConfig, compilation_problems, compilation_warnings
from headway.server.config.connections import ConnectionsConfig
from headway.server.config.cors import CorsConfig, cors_problems, cors_warnings
from headway.server.config.data_parallel import DataParallelConfig
from headway.server.config.development import DevelopmentConfig, development_warnings
from headway.server.config.extension import ExtensionConfig
from headway.server.config.fields import Setting, Topic, settings_of
from headway.server.config.graphs import GraphsConfig, graphs_problems
from headway.server.config.http import HttpConfig, http_problems, http_warnings
from headway.server.config.kv_transfer import (
    HIGHEST_SIDE_CHANNEL_PORT,
    MAX_RANKS,
    KVTransferConfig,
    kv_transfer_problems,
    kv_transfer_warnings,
)
from headway.server.config.limits import LimitConfig
from headway.server.config.logs import LogConfig, log_problems, log_warnings
from headway.server.config.lora import LoraConfig, lora_problems, lora_warnings
from headway.server.config.model import ModelConfig, model_problems
from headway.server.config.network import NetworkConfig, network_problems
from headway.server.config.observability import ObservabilityConfig, observability_problems
from headway.server.config.overload import OverloadConfig, overload_warnings
from headway.server.config.parallel import ParallelConfig, parallel_problems, parallel_warnings
from headway.server.config.pooling import PoolingConfig, pooling_problems
from headway.server.config.responses import ResponsesConfig, responses_warnings
from headway.server.config.sagemaker import SagemakerConfig
from headway.server.config.scheduler import SchedulerConfig
from headway.server.config.security import SecurityConfig, security_problems, security_warnings
from headway.server.config.speculative import SpeculativeConfig, speculative_problems
from headway.server.config.start import StartConfig
from headway.server.config.structured import StructuredConfig, structured_problems
from headway.server.config.tls import TlsConfig, tls_problems, tls_warnings
from headway.server.config.tracing import TracingConfig, tracing_problems
from headway.server.words import plural


class ServerConfig(Topic):
    """Everything a user may set, as asked; frozen. What was decided from it is config/plan.py's and EngineInfo's."""

    model: ModelConfig = ModelConfig()
    chat: ChatConfig = ChatConfig()
    cache: CacheConfig = CacheConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    speculative: SpeculativeConfig = SpeculativeConfig()
    data_parallel: DataParallelConfig = DataParallelConfig()
    parallel: ParallelConfig = ParallelConfig()
    kv_transfer: KVTransferConfig = KVTransferConfig()
    compilation: CompilationConfig = CompilationConfig()
    graphs: GraphsConfig = GraphsConfig()
    pooling: PoolingConfig = PoolingConfig()
    lora: LoraConfig = LoraConfig()
    structured: StructuredConfig = StructuredConfig()
    network: NetworkConfig = NetworkConfig()
    tls: TlsConfig = TlsConfig()
    connections: ConnectionsConfig = ConnectionsConfig()
    security: SecurityConfig = SecurityConfig()
    cors: CorsConfig = CorsConfig()
    extension: ExtensionConfig = ExtensionConfig()
    overload: OverloadConfig = OverloadConfig()
    limits: LimitConfig = LimitConfig()
    http: HttpConfig = HttpConfig()
    responses: ResponsesConfig = ResponsesConfig()
    sagemaker: SagemakerConfig = SagemakerConfig()
    logs: LogConfig = LogConfig()
    observability: ObservabilityConfig = ObservabilityConfig()
    tracing: TracingConfig = TracingConfig()
    development: DevelopmentConfig = DevelopmentConfig()
    start: StartConfig = StartConfig()


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
        *chat_problems(config.chat),
        *_size_problems(config),
        *parallel_problems(config.parallel, config.data_parallel.data_parallel_size),
        *_stage_problems(config),
        *speculative_problems(config.speculative),
        *_draft_problems(config),
        *kv_transfer_problems(config.kv_transfer),
        *_transfer_problems(config),
        *compilation_problems(config.compilation),
        *graphs_problems(config.graphs),
        *pooling_problems(config.pooling),
        *lora_problems(config.lora),
        *structured_problems(config.structured),
        *network_problems(config.network),
        *tls_problems(config.tls),
        *security_problems(config.security),
        *cors_problems(config.cors),
        *log_problems(config.logs),
        *observability_problems(config.observability),
        *tracing_problems(config.tracing),
        *http_problems(config.http),
        *_api_process_problems(config),
    ]


def warnings(config: ServerConfig) -> list[str]:
    """A sentence for each thing that was asked for and has no effect, or another one than may be wanted."""
    return [
        *tls_warnings(config.tls),
        *kv_transfer_warnings(config.kv_transfer, config.parallel.uses_ray),
        *lora_warnings(config.lora),
        *security_warnings(config.security),
        *cors_warnings(config.cors),
        *log_warnings(config.logs),
        *overload_warnings(config.overload),
        *parallel_warnings(config.parallel),
        *compilation_warnings(config.compilation, config.parallel.tensor_parallel_size),
        *development_warnings(config.development, config.security.has_keys),
        *http_warnings(config.http),
        *responses_warnings(config.responses, config.network.api_server_count),
        *_unused_code(config.sagemaker),
    ]


def _unused_code(sagemaker: SagemakerConfig) -> list[str]:
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


def _stage_problems(config: ServerConfig) -> list[str]:
    num_stages, found = config.parallel.pipeline_parallel_size, []
    if num_stages > 1 and config.scheduler.async_scheduling:
        why = f"the first of --pipeline-parallel-size {num_stages} stages starts from the tokens that the last one chose"
        spare = f"leave it out; {num_stages} steps are under way as it is"
        found.append(f"--async-scheduling computes tokens before they are known, and {why}: {spare}")
    if num_stages > 1 and config.compilation.shards_tokens:
        why = f"--pipeline-parallel-size {num_stages} stages hand whole steps on"
        found.append(f"--compilation-config with enable_sp shares the tokens of a step, and {why}: leave one of them out")
    return found


def _draft_problems(config: ServerConfig) -> list[str]:
    """What can't be done while nobody knows how many tokens a step brings."""
    if not config.speculative.speculative_config:
        return []
    beside = {
        "--async-scheduling": (bool(config.scheduler.async_scheduling), "how far a request gets is known when its step has come back"),
        "--pipeline-parallel-size above 1": (config.parallel.pipeline_parallel_size > 1, "the first stage starts before drafts are judged"),
        "--runner pooling": (config.pooling.runner == "pooling", "a model that pools generates nothing"),
    }
    asked = [(other, why) for other, (is_on, why) in beside.items() if is_on]
    found = [f"{other} does not go with --speculative-config: {why}; leave one of them out" for other, why in asked]
    return [*found, *_draft_model_problems(config)] if config.speculative.asks_for_draft_model else found


def _draft_model_problems(config: ServerConfig) -> list[str]:
    """What knows of one model and its pages only."""
    parallel, transfer = config.parallel, config.kv_transfer
    no_keys = "what comes from elsewhere has no keys and values of the draft model"
    beside = {
        "--tensor-parallel-size above 1": (parallel.tensor_parallel_size > 1, "a draft model runs on one device"),
        "--prefill-context-parallel-size above 1": (parallel.prefill_context_parallel_size > 1, "a draft model runs on one device"),
        "--distributed-executor-backend ray": (parallel.uses_ray, "a draft model is read on this host"),
        "--kv-transfer-config": (bool(transfer.kv_transfer_config), no_keys),
        "--kv-offloading-size": (bool(transfer.kv_offloading_size), no_keys),
        "--enable-sleep-mode": (config.development.enable_sleep_mode, "a draft model does not sleep"),
    }
    asked = [(other, why) for other, (is_on, why) in beside.items() if is_on]
    spare = "use method ngram, or leave one of them out"
    return [f"{other} does not go with a draft model in --speculative-config: {why}; {spare}" for other, why in asked]


def _transfer_problems(config: ServerConfig) -> list[str]:
    """What moves or changes the KV that a connector reads."""
    transfer = config.kv_transfer
    if not transfer.kv_transfer_config and not transfer.kv_offloading_size:
        return []
    flag = "--kv-transfer-config" if transfer.kv_transfer_config else "--kv-offloading-size"
    is_offload = transfer.kv_transfer_config.get("kv_connector", "OffloadingConnector") == "OffloadingConnector"
    beside = {
        "--enable-sleep-mode": (config.development.enable_sleep_mode, "the pages that others read would move"),
        "--enable-lora": (config.lora.enable_lora and not is_offload, "two servers don't know that their adapters are the same"),
        "--runner pooling": (config.pooling.runner == "pooling", "a model that pools keeps no KV"),
        "--no-enable-prefix-caching": (is_offload and not config.cache.enable_prefix_caching, "a block is found as a part of a prefix"),
    }
    found = [f"{other} does not go with {flag}: {why}" for other, (is_on, why) in beside.items() if is_on]
    if is_offload:
        return found
    if (num_ranks := config.parallel.num_ranks) > MAX_RANKS:
        asked = " with ".join(config.parallel.asked)
        found.append(f"{flag} with NixlConnector is for {MAX_RANKS} ranks at most, and {asked} takes {num_ranks}: lower one of them")
    first = config.kv_transfer.nixl_side_channel_port
    num_ports = config.data_parallel.data_parallel_size * num_ranks
    if first + num_ports - 1 > HIGHEST_SIDE_CHANNEL_PORT:
        asked = f"--nixl-side-channel-port {first}"
        found.append(
            f"{asked} leaves no room for {plural(num_ports, 'port')} up to {HIGHEST_SIDE_CHANNEL_PORT}, one a rank: choose a lower one"
        )
    return found


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
