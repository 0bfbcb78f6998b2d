"""The composition root of `headway serve`: binds, starts the engine process, runs the life cycle of both, says how it ended."""

from __future__ import annotations

import logging
import os
import resource
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from headway.server.api_processes.followers import Followers
from headway.server.config.attention import AttentionConfig
from headway.server.config.server import ServerConfig, secrets_of
from headway.server.counts import Counts
from headway.server.errors import HeadwayError, sentence_of
from headway.server.kernel_cache import kernel_cache
from headway.server.listen import listening
from headway.server.log import log_uncaught_in_threads, masked
from headway.server.log_setup import set_up_logging
from headway.server.phases import PhaseLog, told
from headway.server.private_directory import private_directory
from headway.server.say import say
from headway.server.signals import EarlyStop, Stopped, ignore_further_signals
from headway.server.source.cache import cache_directory
from headway.server.starter import EngineStarter

if TYPE_CHECKING:
    from headway.server.api.sagemaker.custom.loading import CustomHandlers
    from headway.server.api.tls.server_tls import ServerTls
    from headway.server.api.tracing import Tracing

log = logging.getLogger(__name__)

_MAX_SOCKETS = 65536


def run_server(config: ServerConfig, early: EarlyStop) -> NoReturn:
    """Serves until told to stop, then ends the process: 0 stopped by a signal, 2 a wrong option or model, 1 anything else.

    The last line on stderr names the reason of a status that is not 0. ``early`` has the signals until the event loop takes them.
    """
    logs = config.logs
    secrets = secrets_of(config)
    log_uncaught_in_threads()
    status, last_words = 0, None
    try:
        set_up_logging(logs, "api", secrets)
        status, last_words = _serve(config, early)
    except HeadwayError as problem:
        status, last_words = 2, str(problem)
    except Stopped:
        ignore_further_signals()
    except Exception as problem:  # the process edge
        log.exception("The server broke")
        status, last_words = 1, sentence_of(problem)
    for line in (last_words or "").splitlines():
        say("error", masked(line, secrets), logs.is_json)
    logging.shutdown()
    # Without the interpreter's own end, which would wait for the threads of a download: minutes, for a whole model.
    os._exit(status)


def _serve(config: ServerConfig, early: EarlyStop) -> tuple[int, str | None]:
    """(exit status, last words)."""
    started = time.monotonic()
    allow_many_sockets()
    with listening(config.network) as listeners, private_directory() as directory:
        counts = _shared_counts(directory, config.network.api_server_count)
        # Before anything that takes long: a certificate, keys, libraries and code of the user's that can't be used end the start.
        _check_what_is_followed_or_run(config)
        tls = _server_tls(config)
        custom = _custom_handlers(config)
        tracing = _tracing(config)
        cache_dir = cache_directory(os.environ)
        _keep_compiled_kernels(cache_dir, directory, config.attention)
        telemetry = {name: value for name, value in os.environ.items() if name.startswith("OTEL_")}
        # The engine takes longest (torch, weights): it starts while this process imports what HTTP needs.
        starter = EngineStarter(config, directory, cache_dir, PhaseLog("getting the model", started))
        followers = Followers(config, directory, cache_dir, listeners, counts, telemetry)
        try:
            starter.begin()
            followers.begin()
            importing_since = time.monotonic()
            from headway.server.lifecycle import Lifecycle  # fastapi, uvicorn

            told("importing the HTTP server", time.monotonic() - importing_since)
            return Lifecycle(config, starter, followers, counts, listeners, tls, early, started, custom, tracing).run()
        finally:
            ignore_further_signals()
            starter.stop()
            followers.members.kill(patience_s=0)


def _shared_counts(directory: Path, num_processes: int) -> Counts:
    """Of this process, and of the API processes beside it if there are any; their metrics are then files that add up."""
    if num_processes == 1:
        return Counts.alone()
    metrics = directory / "metrics"
    metrics.mkdir()
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics)  # read when prometheus_client is imported, here and in those processes
    return Counts.create(directory, num_processes)


def _keep_compiled_kernels(cache_dir: Path, private: Path, attention: AttentionConfig) -> None:
    """For the engine process, which inherits them: where Triton and FlashInfer keep what they compile, and what looks for Triton's there
    and in the image."""
    if find_spec("triton") is None:
        return
    places = {
        "TRITON_CACHE_DIR": "",
        **({"FLASHINFER_WORKSPACE_BASE": "flashinfer"} if attention.attention_backend == "FLASHINFER" else {}),
    }
    if unset := {name: below for name, below in places.items() if name not in os.environ}:
        directory = kernel_cache(cache_dir, private)
        os.environ.update({name: str(directory / below) for name, below in unset.items()})
    os.environ.setdefault("TRITON_CACHE_MANAGER", "headway.kernels.gpu.shipped_cache:ShippedCacheManager")


def _server_tls(config: ServerConfig) -> ServerTls | None:
    if not config.tls.is_on:
        return None
    from headway.server.api.tls.server_tls import ServerTls  # cryptography

    return ServerTls(config.tls)


def _check_what_is_followed_or_run(config: ServerConfig) -> None:
    """What the application and the engine make of these options once they are built, tried out now. Raises ConfigError."""
    if config.security.api_key_file is not None:
        from headway.server.api.keys import ApiKeys

        ApiKeys(config.security)
    if config.extension.middleware:
        from headway.server.api.user_code.middleware import load_middleware  # fastapi

        load_middleware(config.extension.middleware)
    if config.kv_transfer.settings is not None:
        from headway.server.engine.kv.transfer.nixl.requirements import check_requirements  # NIXL

        num_ranks = config.parallel.num_ranks
        step = num_ranks if config.parallel.uses_ray else 1  # an engine's first rank is here; Ray may place the others on other hosts
        check_requirements(config.kv_transfer, range(0, config.data_parallel.data_parallel_size * num_ranks, step))
    if (offload := config.kv_transfer.offload) is not None and offload.kv_connector_extra_config.disk_path is not None:
        from headway.server.engine.kv.transfer.offload.files import usable_directory

        usable_directory(offload.kv_connector_extra_config.disk_path)
    from headway.server.text.parsers import check_parser_names

    check_parser_names(config.chat)


def _custom_handlers(config: ServerConfig) -> CustomHandlers | None:
    if not config.sagemaker.enable_custom_handlers:
        return None
    from headway.server.api.sagemaker.custom.loading import load_custom_handlers  # fastapi

    return load_custom_handlers(config.sagemaker)


def _tracing(config: ServerConfig) -> Tracing | None:
    if config.tracing.otlp_traces_endpoint is None:
        return None
    from headway.server.api.traces import make_tracing  # starlette, OpenTelemetry

    return make_tracing(config.tracing, os.environ)


def allow_many_sockets() -> None:
    """Raises this process's limit on open files as far as it may: with the usual 1024, as many idle connections would shut out /ping."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_SOCKETS if hard == resource.RLIM_INFINITY else min(hard, _MAX_SOCKETS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
